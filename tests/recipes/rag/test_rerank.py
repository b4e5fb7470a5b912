"""The optional cross-encoder: a tiny real one, made here, whose judgement is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound
from engine.paths import StatePaths
from recipes.rag.actions import search
from recipes.rag.embedding import Embedder
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.rerank import rerank
from recipes.rag.retrieve import Retriever, Settings
from recipes.rag.store import open_index

#: the word that the cross-encoder likes
LIKED = "yeast"


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with one output that scores a pair by whether it holds ``LIKED``.

    Its layer is an identity (all its weights are zero), and the pooled vector is the mean over the
    tokens through the attention: a row of zeros attends everywhere alike. Only the embedding of
    ``LIKED`` reaches the output.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("cross") / "model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", LIKED, "bread", "penguins", "cats"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=64,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm.weight" not in name:
                weight.zero_()
        model.bert.embeddings.word_embeddings.weight[words.index(LIKED), 0] = 4.0
        attention = model.bert.encoder.layer[0].attention
        attention.self.value.weight.copy_(torch.eye(8))
        attention.output.dense.weight.copy_(torch.eye(8))
        model.bert.pooler.dense.weight.copy_(torch.eye(8))
        model.classifier.weight[0, 0] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def retriever(paths: StatePaths, library: Path, embedder: Embedder) -> Retriever:
    sync_index(Job("library", library), paths)
    return Retriever(open_index("library", paths), embedder)


def test_the_cross_encoder_has_the_last_word(retriever: Retriever, cross_encoder: Path) -> None:
    query = "What do penguins eat?"
    plain = retriever.search(query, 5)
    assert plain.hits[0].path == "animals/penguins.md"
    assert all(hit.rerank is None for hit in plain.hits)
    hits = retriever.search(query, 5, settings=Settings(reranker=str(cross_encoder))).hits
    assert hits[0].path == "bread.txt", "the only one that holds the word it likes"
    scores = [hit.rerank or 0.0 for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[1]
    assert {hit.id for hit in hits} == {hit.id for hit in plain.hits}


def test_only_the_best_few_are_read_by_it(retriever: Retriever, cross_encoder: Path) -> None:
    query = "What do penguins eat?"
    plain = [hit.id for hit in retriever.search(query, 5).hits]
    settings = Settings(reranker=str(cross_encoder), rerank=2)
    hits = retriever.search(query, 5, settings=settings).hits
    assert [hit.rerank is not None for hit in hits] == [True, True, False, False, False]
    assert [hit.id for hit in hits[2:]] == plain[2:]


def test_it_can_be_asked_for_by_every_caller(
    retriever: Retriever, paths: StatePaths, cross_encoder: Path
) -> None:
    params = {
        "index": retriever.generation.name, "query": "What do penguins eat?", "k": 1,
        "settings": {"reranker": str(cross_encoder)},
    }  # fmt: skip
    found = search(params, lambda event: None, paths)
    assert found["hits"][0]["path"] == "bread.txt"


def test_wrong_models_are_told(
    retriever: Retriever, cross_encoder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    hits = retriever.search("penguins", 2).hits
    with pytest.raises(NotFound, match="no cross-encoder") as missing:
        rerank("penguins", hits, str(tmp_path / "nowhere"), "cpu")
    assert missing.value.why == "there is no such folder"
    with pytest.raises(BadInput, match="no cross-encoder") as causal:
        rerank("penguins", hits, str(tiny_model), "cpu")
    assert "LlamaForCausalLM" in causal.value.why

    two = tmp_path / "two"
    shutil.copytree(cross_encoder, two)
    config = json.loads((two / "config.json").read_text())
    config.update(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    (two / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="no cross-encoder") as classes:
        rerank("penguins", hits, str(two), "cpu")
    assert classes.value.why == "it scores 2 classes"

    torn = tmp_path / "torn"
    shutil.copytree(cross_encoder, torn)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInput, match="can't be loaded"):
        rerank("penguins", hits, str(torn), "cpu")

    from safetensors.torch import load_file, save_file

    headless = tmp_path / "headless"
    shutil.copytree(cross_encoder, headless)
    weights = load_file(headless / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "classifier" not in name}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="is not whole") as partial:
        rerank("penguins", hits, str(headless), "cpu")
    assert "classifier.weight" in partial.value.why


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "magic"}, "'magic' is no way to search"),
        ({"wieght": 0.5}, "unknown setting 'wieght'"),
        ({"weight": "half"}, "weight can't be 'half'"),
        ({"weight": 2}, "out of its range"),
    ],
)
def test_wrong_settings_are_told(
    retriever: Retriever, paths: StatePaths, settings: dict[str, object], told: str
) -> None:
    params = {"index": retriever.generation.name, "query": "x", "settings": settings}
    with pytest.raises(BadInput, match=told):
        search(params, lambda event: None, paths)
