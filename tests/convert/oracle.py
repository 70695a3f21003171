"""The reference's model once more, in numpy and as the specification tells it: one task after the other, no rewrites.

Reads the reference's names and a config's switches by itself, so that it shares nothing with what it checks.
"""

import numpy as np

DEFAULTS = {
    "SHARED_SCALE": 2.0,
    "SCALE_PER_TASK": {},
    "R_PER_TASK": {},
    "SHARED_MODE": "matrix",
    "INTERMEDIATE_SPECIALIZATION": False,
    **{f"{site}_ENABLED": True for site in ("QKV", "PROJ", "FC1", "FC2")},
    "DOWNSAMPLER_ENABLED": False,
}


def erf(x: np.ndarray) -> np.ndarray:
    import math

    return np.vectorize(math.erf, otypes=[np.float64])(x)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def layer_norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight + bias


def bilinear(x: np.ndarray, side: int) -> np.ndarray:
    """`[B, h, h, C]` to `[B, side, side, C]`."""
    old = x.shape[1]
    centre = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, None)
    low = np.minimum(centre.astype(int), old - 1)
    weights = np.zeros((side, old))
    np.add.at(weights, (np.arange(side), low), 1 - (centre - low))
    np.add.at(weights, (np.arange(side), np.minimum(low + 1, old - 1)), centre - low)
    return np.einsum("yi,xj,bijc->byxc", weights, weights, x)


class Oracle:
    """`Oracle(state_dict, config)(images)` gives `{task: [B, S, S, channels]}` of a model with hrnet heads."""

    def __init__(self, state_dict, config):
        self.sd = {name: np.asarray(x, np.float64) for name, x in state_dict.items()}
        model = config["MODEL"]
        self.swin, self.tasks = model["SWIN"], config["TASKS"]
        given = model.get("MTLORA") or {}
        self.on = given.get("ENABLED", False)
        self.lora = DEFAULTS | given
        self.stages = len(self.swin["DEPTHS"])

    def per_stage(self, value, stage: int):
        values = value if isinstance(value, list) else [value]
        return values[0] if len(values) == 1 else values[stage]

    def rank(self, stage: int) -> int:
        return self.per_stage(self.lora["R_PER_TASK"].get("shared", self.lora["R"]), stage)

    def linear(self, name: str, x, x_tasks, stage: int, site: str, last: bool):
        """`(shared, {task: ...} or None)` of one layer."""
        sd, enabled = self.sd, self.on and self.lora[f"{site}_ENABLED"]
        inner = f"{name}.linear" if enabled else name
        y = x @ sd[f"{inner}.weight"].T + sd.get(f"{inner}.bias", 0.0)
        if not enabled or self.rank(stage) == 0:
            return y, None
        mode = {"add": "addition"}.get(self.lora["SHARED_MODE"], self.lora["SHARED_MODE"])
        tasks = self.tasks if site in ("PROJ", "FC1", "FC2") else None
        if not (last or self.lora["INTERMEDIATE_SPECIALIZATION"]) or mode == "lora_only":
            tasks = None
        if tasks is None:
            mode = "matrix"
        shared = 0.0
        if mode != "addition":
            scale = sd.get(f"{name}.lora_shared_scale", self.per_stage(self.lora["SHARED_SCALE"], stage))
            shared = x @ sd[f"{name}.lora_shared_A"].T @ sd[f"{name}.lora_shared_B"].T * scale
        if tasks is None:
            return y + shared, None
        outputs = {}
        for task in tasks:
            scale = self.lora["SCALE_PER_TASK"].get(task, self.lora["SHARED_SCALE"])
            scale = sd.get(f"{name}.lora_task_scale.{task}", self.per_stage(scale, stage))
            u = x if x_tasks is None else x_tasks[task]
            own = u @ sd[f"{name}.lora_tasks_A.{task}"].T @ sd[f"{name}.lora_tasks_B.{task}"].T * scale
            outputs[task] = y + own + (shared if mode == "matrixv2" else 0.0)
        if mode == "addition":
            norm = f"{name}.lora_norm"
            shared = layer_norm(sum(outputs.values()), sd[f"{norm}.weight"], sd[f"{norm}.bias"])
        return y + shared, outputs

    def norm(self, name: str, x):
        return layer_norm(x, self.sd[f"{name}.weight"], self.sd[f"{name}.bias"])

    def attend(self, name: str, qkv, heads: int, window: int, shift: int):
        """`[B, H, H, 3C]` to `[B, H, H, C]`, token pair by token pair."""
        B, H, _, C3 = qkv.shape
        C = C3 // 3
        q, k, v = np.split(np.roll(qkv, (-shift, -shift), (1, 2)), 3, axis=-1)
        table = self.sd[f"{name}.relative_position_bias_table"]
        y, x = np.divmod(np.arange(window * window), window)
        index = (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1
        label = np.zeros(H, int)
        if shift:
            label[H - window :] = 1
            label[H - shift :] = 2
        out = np.zeros((B, H, H, C))
        scale = self.swin.get("QK_SCALE") or (C // heads) ** -0.5
        for top in range(0, H, window):
            for left in range(0, H, window):
                area = (slice(None), slice(top, top + window), slice(left, left + window))
                region = (3 * label[top : top + window, None] + label[None, left : left + window]).reshape(-1)
                mask = np.where(region[:, None] == region, 0.0, -100.0)
                a, b, c = (t[area].reshape(B, -1, heads, C // heads) for t in (q, k, v))
                logits = np.einsum("bnkd,bmkd->bknm", a, b) * scale + table[index].transpose(2, 0, 1) + mask
                weights = np.exp(logits - logits.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                out[area] = np.einsum("bknm,bmkd->bnkd", weights, c).reshape(B, window, window, C)
        return np.roll(out, (shift, shift), (1, 2))

    def block(self, x, stage: int, index: int):
        name, grid = f"backbone.layers.{stage}.blocks.{index}", x.shape[1]
        last = index == self.swin["DEPTHS"][stage] - 1
        window = self.swin.get("WINDOW_SIZE", 7)
        shift = window // 2 if index % 2 else 0
        if grid <= window:
            window, shift = grid, 0
        qkv, _ = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x), None, stage, "QKV", last)
        attended = self.attend(f"{name}.attn", qkv, self.swin["NUM_HEADS"][stage], window, shift)
        projected, p_tasks = self.linear(f"{name}.attn.proj", attended, None, stage, "PROJ", last)
        x_tasks = p_tasks and {task: x + p for task, p in p_tasks.items()}
        x = x + projected
        inputs = x_tasks and {task: self.norm(f"{name}.norm2", t) for task, t in x_tasks.items()}
        h, h_tasks = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x), inputs, stage, "FC1", last)
        h_tasks = h_tasks and {task: gelu(t) for task, t in h_tasks.items()}
        f, f_tasks = self.linear(f"{name}.mlp.fc2", gelu(h), h_tasks, stage, "FC2", last)
        if f_tasks is None:
            return x + f, None
        return x + f, {task: t + (x_tasks[task] if x_tasks else 0.0) for task, t in f_tasks.items()}

    def merge(self, x, stage: int):
        name = f"backbone.layers.{stage}.downsample"
        quarters = [x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        joined = self.norm(f"{name}.norm", np.concatenate(quarters, axis=-1))
        return self.linear(f"{name}.reduction", joined, None, stage, "DOWNSAMPLER", True)[0]

    def taps(self, images):
        """Per stage `{task: [B, g, g, C]}`."""
        kernel = self.sd["backbone.patch_embed.proj.weight"]
        patch = kernel.shape[-1]
        B, S = images.shape[:2]
        patches = images.reshape(B, S // patch, patch, S // patch, patch, 3)
        x = np.einsum("byixjc,ocij->byxo", patches, kernel) + self.sd["backbone.patch_embed.proj.bias"]
        if self.swin.get("PATCH_NORM", True):
            x = self.norm("backbone.patch_embed.norm", x)
        if self.swin.get("APE", False):
            x = x + self.sd["backbone.absolute_pos_embed"].reshape(1, *x.shape[1:])
        found = []
        for stage, depth in enumerate(self.swin["DEPTHS"]):
            tasks = None
            for index in range(depth):
                x, tasks = self.block(x, stage, index)
            if stage < self.stages - 1:
                x, tasks = self.merge(x, stage), tasks and {t: self.merge(s, stage) for t, s in tasks.items()}
            found.append(tasks or dict.fromkeys(self.tasks, x))
        return found

    def project(self, tap, task: str, stage: int):
        for name in (f"downsampler.{task}.downsample_{stage}.weight", f"downsampler.downsample_{stage}.weight"):
            if name in self.sd:
                return tap @ self.sd[name][:, :, 0, 0].T
        return tap

    def __call__(self, images):
        taps, outputs = self.taps(np.asarray(images, np.float64)), {}
        for task in self.tasks:
            levels = [self.project(tap[task], task, stage) for stage, tap in enumerate(taps)]
            x = np.concatenate([bilinear(level, levels[0].shape[1]) for level in levels], axis=-1)
            name = f"decoders.decoders.{task}.last_layer"
            sd = {key.removeprefix(f"{name}."): x for key, x in self.sd.items() if key.startswith(name)}
            x = x @ sd["0.weight"][:, :, 0, 0].T + sd["0.bias"]
            x = (x - sd["1.running_mean"]) / np.sqrt(sd["1.running_var"] + 1e-5) * sd["1.weight"] + sd["1.bias"]
            x = np.maximum(x, 0) @ sd["3.weight"][:, :, 0, 0].T + sd["3.bias"]
            outputs[task] = bilinear(x, images.shape[1])
        return outputs
