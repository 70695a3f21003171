"""MTLoRA on Swin in plain PyTorch, as the paper describes it: the peer that our own is timed against.

Written from the paper for this purpose alone: a loop over tasks, two low-rank products for each, window attention
spelled out. Names of parameters are those of the published checkpoints, so `mtlora_jax.convert` fills it.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Adapted(nn.Module):
    """`W x + b + s B A x` of the shared stream; a task adds its own low-rank update to the shared stream's product."""

    def __init__(self, d_in, d_out, rank, tasks=(), task_rank=4, scale=4.0, dropout=0.05):
        super().__init__()
        self.linear = nn.Linear(d_in, d_out)
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        self.lora_shared_A = nn.Parameter(torch.zeros(rank, d_in))
        self.lora_shared_B = nn.Parameter(torch.zeros(d_out, rank))
        self.lora_tasks_A = nn.ParameterDict({t: nn.Parameter(torch.zeros(task_rank, d_in)) for t in tasks})
        self.lora_tasks_B = nn.ParameterDict({t: nn.Parameter(torch.zeros(d_out, task_rank)) for t in tasks})

    def forward(self, x, x_tasks=None):
        base, dropped = self.linear(x), self.dropout(x)
        out = base + self.scale * F.linear(F.linear(dropped, self.lora_shared_A), self.lora_shared_B)
        tasks = {}
        for t, A in self.lora_tasks_A.items():
            u = dropped if x_tasks is None else x_tasks[t]
            tasks[t] = base + self.scale * F.linear(F.linear(u, A), self.lora_tasks_B[t])
        return out, tasks or None


class Plain(nn.Linear):
    """A linear layer with an adapter's call."""

    def forward(self, x, x_tasks=None):
        return super().forward(x), None


def layer(d_in, d_out, rank, tasks=()):
    return Adapted(d_in, d_out, rank, tasks) if rank else Plain(d_in, d_out)


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((len(x), 1, 1, 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Attention(nn.Module):
    def __init__(self, dim, heads, window, rank, tasks):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = layer(dim, 3 * dim, rank), layer(dim, dim, rank, tasks)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        dy, dx = (c.flatten()[:, None] - c.flatten()[None] + window - 1 for c in (y, x))
        self.register_buffer("relative_position_index", dy * (2 * window - 1) + dx)

    def forward(self, x, mask):
        """`[windows, N, C]`; `mask` is `[windows an image, N, N]` or None."""
        b, n, c = x.shape
        q, k, v = self.qkv(x)[0].reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        logits = logits + bias.reshape(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            logits = (logits.reshape(-1, len(mask), self.heads, n, n) + mask[:, None]).reshape(-1, self.heads, n, n)
        x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj(x)


class Mlp(nn.Module):
    def __init__(self, dim, rank, tasks):
        super().__init__()
        self.fc1, self.fc2 = layer(dim, 4 * dim, rank, tasks), layer(4 * dim, dim, rank, tasks)

    def forward(self, x, x_tasks):
        x, x_tasks = self.fc1(x, x_tasks)
        return self.fc2(F.gelu(x), x_tasks and {t: F.gelu(y) for t, y in x_tasks.items()})


class Block(nn.Module):
    def __init__(self, dim, grid, heads, window, shift, drop_path, rank, tasks):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads, window, rank, tasks), Mlp(dim, rank, tasks)
        self.drop_path = DropPath(drop_path)
        band = (torch.arange(grid) >= grid - window).int() + (torch.arange(grid) >= grid - shift).int()
        region = self.cut((3 * band[:, None] + band[None])[None, :, :, None].float()).squeeze(-1)
        mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)
        self.register_buffer("attn_mask", mask if shift else None)

    def cut(self, x):
        b, h, w, c = x.shape
        x = x.reshape(b, h // self.window, self.window, w // self.window, self.window, c).transpose(2, 3)
        return x.reshape(-1, self.window**2, c)

    def join(self, x, h):
        x = x.reshape(-1, h // self.window, h // self.window, self.window, self.window, x.shape[-1]).transpose(2, 3)
        x = x.reshape(len(x), h, h, -1)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x

    def forward(self, x):
        y = self.norm1(x)
        y = y.roll((-self.shift, -self.shift), (1, 2)) if self.shift else y
        y, y_tasks = self.attn(self.cut(y), self.attn_mask)
        h = x.shape[1]
        x_tasks = y_tasks and {t: x + self.drop_path(self.join(y_t, h)) for t, y_t in y_tasks.items()}
        x = x + self.drop_path(self.join(y, h))
        y, y_tasks = self.mlp(self.norm2(x), x_tasks and {t: self.norm2(x_t) for t, x_t in x_tasks.items()})
        tasks = y_tasks and {t: x_tasks[t] + self.drop_path(y_t) for t, y_t in y_tasks.items()}
        return x + self.drop_path(y), tasks


class PatchMerging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    def __init__(self, dim, grid, depth, heads, window, drop_paths, rank, tasks, merges):
        super().__init__()
        window, shift = min(window, grid), window // 2 if grid > window else 0
        self.blocks = nn.ModuleList(
            Block(dim, grid, heads, window, shift * (j % 2), drop_paths[j], rank, tasks if j == depth - 1 else ())
            for j in range(depth)
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x):
        for block in self.blocks:
            x, tasks = block(x)
        if self.downsample is not None:
            x, tasks = self.downsample(x), tasks and {t: self.downsample(y) for t, y in tasks.items()}
        return x, tasks


class Backbone(nn.Module):
    def __init__(self, spec, rank, tasks):
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, spec.dim, spec.patch, spec.patch), "norm": nn.LayerNorm(spec.dim)}
        )
        rates = torch.linspace(0, spec.drop_path, sum(spec.depths)).tolist()
        self.layers = nn.ModuleList(
            Stage(
                spec.width(i),
                spec.grid(i),
                spec.depths[i],
                spec.heads[i],
                spec.window,
                [rates.pop(0) for _ in range(spec.depths[i])],
                rank,
                tasks,
                i < spec.stages - 1,
            )
            for i in range(spec.stages)
        )

    def forward(self, images):
        x = self.patch_embed["norm"](self.patch_embed["proj"](images).permute(0, 2, 3, 1))
        maps = []
        for stage in self.layers:
            x, tasks = stage(x)
            maps.append((x, tasks))
        return maps


class HRNet(nn.Module):
    def __init__(self, width, channels):
        super().__init__()
        self.last_layer = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width), nn.ReLU(), nn.Conv2d(4 * width, channels, 1)
        )

    def forward(self, maps):
        side = maps[0].shape[-2:]
        resized = [F.interpolate(x, side, mode="bilinear", align_corners=False) for x in maps]
        return self.last_layer(torch.cat(resized, 1))


class Model(nn.Module):
    """Backbone, projections and HRNet heads; uint8 `[B, S, S, 3]` to `{task: [B, C, S, S]}`."""

    def __init__(self, spec, rank, channels, projected=(18, 36, 72, 144)):
        super().__init__()
        self.backbone = Backbone(spec, rank, tuple(channels) if rank else ())
        self.downsampler = nn.ModuleDict(
            {
                t: nn.ModuleDict(
                    {
                        f"downsample_{i}": nn.Conv2d(spec.feature_map(i)[1], p, 1, bias=False)
                        for i, p in enumerate(projected)
                    }
                )
                for t in channels
            }
        )
        self.decoders = nn.ModuleDict(
            {"decoders": nn.ModuleDict({t: HRNet(sum(projected), c) for t, c in channels.items()})}
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]) * 255, persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]) * 255, persistent=False)

    def forward(self, images):
        x = ((images - self.mean) / self.std).permute(0, 3, 1, 2)
        maps, outputs = self.backbone(x), {}
        for t, head in self.decoders["decoders"].items():
            own = [(x if tasks is None else tasks[t]).permute(0, 3, 1, 2) for x, tasks in maps]
            own = [self.downsampler[t][f"downsample_{i}"](y) for i, y in enumerate(own)]
            outputs[t] = F.interpolate(head(own), x.shape[-2:], mode="bilinear", align_corners=False)
        return outputs


def losses(outputs, labels):
    """The published losses of the four PASCAL tasks; void is 255."""
    result = {}
    for t in {"semseg", "human_parts"} & set(outputs):
        result[t] = F.cross_entropy(outputs[t].float(), labels[t].long(), ignore_index=255)
    if "normals" in outputs:
        n, label = outputs["normals"].float().permute(0, 2, 3, 1), labels["normals"]
        n = n / (n.norm(dim=-1, keepdim=True) + 1e-12)
        known = label != 255
        result["normals"] = ((n - label).abs() * known).sum() / known.sum().clamp(min=1)
    if "saliency" in outputs:
        p, label = outputs["saliency"].float()[:, 0], labels["saliency"]
        known = label != 255
        positive = (label >= 0.5) & known
        negative = known & ~positive
        share = negative.sum() / known.sum().clamp(min=1)
        weight = share * positive + (1 - share) * negative
        loss = F.binary_cross_entropy_with_logits(p, positive.float(), reduction="none")
        result["saliency"] = (weight * loss).sum() / known.sum().clamp(min=1)
    return result


def freeze(model):
    """Leaves what MTLoRA trains: adapters, norms, biases of attention, patch embedding and merging, decoders."""
    trained = ("lora_", "patch_embed", "norm", "downsample.reduction", "relative_position_bias_table")
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad = any(word in name for word in trained)
