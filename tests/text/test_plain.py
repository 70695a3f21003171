"""What is forgotten: the perplexity of plain text under every task's adapters; held-out scores know nothing of it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_text import CONFIG, TASKS

from mtlora_jax.engine.evaluate import evaluate
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.step import make_eval_step
from mtlora_jax.errors import UserError
from mtlora_jax.text.config import FileData
from mtlora_jax.text.examples import tokenizer_of
from mtlora_jax.text.plain import documents, plain_corpus
from mtlora_jax.text.workload import PLAIN, make_model, make_workload

TOTAL = "perplexity of plain text"


def measured(config, variables):
    workload, mesh = make_workload(config), make_mesh(config.mesh)
    return evaluate(workload, make_eval_step(workload, mesh), variables, workload.held_out(8), mesh)


@pytest.fixture(scope="module")
def filled():
    """Variables whose adapters do something, for each task another thing."""
    variables, rng = make_workload(CONFIG).init(0), np.random.default_rng(0)
    lora = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables["lora"])
    return {**variables, "lora": lora}


def test_it_is_the_model_s_own_perplexity_of_the_documents_by_task(filled):
    config = replace(CONFIG, plain_length=3)
    model, found = make_model(config), measured(config, filled)
    texts = plain_corpus(config, tokenizer_of(config))
    for task, name in enumerate(TASKS):
        losses = []
        for piece in [texts[i] for i in range(len(texts)) if texts.task[i] == task]:
            logits = model.apply(filled, piece.tokens[None, :-1], task_id=np.array([task]))
            losses += (-jax.nn.log_softmax(logits[0])[np.arange(len(piece.tokens) - 1), piece.tokens[1:]]).tolist()
        assert found[name][PLAIN] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    of = [found[task][PLAIN] for task in TASKS]
    assert len(set(of)) == len(TASKS)
    assert found["total"][TOTAL] == pytest.approx(np.exp(np.mean(np.log(of))))


def test_losses_and_accuracies_do_not_know_of_it(filled):
    without, with_it = (measured(replace(CONFIG, plain_length=length), filled) for length in (0, 5))
    assert TOTAL not in without["total"]
    for task in without:
        assert without[task] == pytest.approx({name: with_it[task][name] for name in without[task]}, rel=1e-6)


def test_documents_are_the_data_set_s_or_a_file_s_paragraphs(tmp_path):
    assert len(documents(replace(CONFIG, plain_length=4))) == 4
    assert len(FileData().plain(100)) == 16
    file = tmp_path / "plain.txt"
    file.write_text("One\nparagraph.\n\n\nAnother.\n\nA third.\n")
    config = replace(CONFIG, plain_text=str(file), plain_length=2)
    assert documents(config) == ["One paragraph.", "Another."]
    file.write_text("\n \n")
    with pytest.raises(UserError, match=rf"^plain_text: {file} holds no text$"):
        documents(config)
    with pytest.raises(UserError, match=r"nothing\.txt"):
        documents(replace(config, plain_text=str(tmp_path / "nothing.txt")))
    with pytest.raises(UserError, match=r"plain_length must be at least 0"):
        replace(CONFIG, plain_length=-1).validate()
