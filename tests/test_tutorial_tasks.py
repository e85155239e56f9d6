"""What the tutorials build, from the public parts of `network.py` and without special cases in the package."""

import math
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import Cell, ModelConfig
from charrnn.model.network import CharRNN, RecurrentStack, detach


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


class LastOutput(nn.Module):
    """A classifier that reads a sequence (T, B, I) and answers from the last layer's last output."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.stack = RecurrentStack(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.stack(x)
        logits: Tensor = self.head(outputs[-1])
        return logits


@pytest.mark.parametrize(
    ("cell", "embedding_size"), [("rnn", None), ("rnn", 4), ("lstm", 4), ("gru", 4), ("lstm", None)]
)
def test_hello_becomes_ohlol(cell: Cell, embedding_size: int | None) -> None:
    symbols = "ehlo"
    x = torch.tensor([[symbols.index(char)] for char in "hello"])
    y = torch.tensor([symbols.index(char) for char in "ohlol"])
    config = ModelConfig(vocab_size=4, cell=cell, hidden_size=8, embedding_size=embedding_size, dropout=0.0)
    model = CharRNN(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[0][:, 0], y).backward()
        optimizer.step()
    assert "".join(symbols[i] for i in model(x)[0][:, 0].argmax(-1)) == "ohlol"


def test_part_of_speech_tagger() -> None:
    tagged = [
        ("the dog ate the apple", "D N V D N"),
        ("everybody read that book", "N V D N"),
        ("the old man the boat", "D N V D N"),  # "man" is a verb here, "old" a noun
        ("a man read the old book", "D N V D A N"),
    ]
    words = {word: i for i, word in enumerate(sorted({w for s, _ in tagged for w in s.split()}))}
    tags = {"D": 0, "N": 1, "V": 2, "A": 3}
    embedding, stack, head = nn.Embedding(len(words), 8), RecurrentStack(8, 16), nn.Linear(16, len(tags))
    parameters = [*embedding.parameters(), *stack.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)

    def scores(sentence: str) -> Tensor:
        ids = torch.tensor([[words[word]] for word in sentence.split()])  # (T, 1)
        logits: Tensor = head(stack(embedding(ids))[0])[:, 0]  # (T, tags)
        return logits

    for _ in range(60):
        for sentence, tagging in tagged:
            optimizer.zero_grad()
            F.cross_entropy(scores(sentence), torch.tensor([tags[tag] for tag in tagging.split()])).backward()
            optimizer.step()
    for sentence, tagging in tagged:
        assert [list(tags)[i] for i in scores(sentence).argmax(-1)] == tagging.split()


def test_sine_predicts_cosine_with_carried_state() -> None:
    stack, head = RecurrentStack(1, 32, cell="rnn"), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*stack.parameters(), *head.parameters()], lr=0.01)
    state = None
    losses = []
    for step in range(200):
        time = torch.linspace(step * math.pi, (step + 1) * math.pi, 11)[:-1].view(-1, 1, 1)
        out, state = stack(time.sin(), state)
        state = detach(state)
        loss = F.mse_loss(head(out), time.cos())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # Half a wave from an empty state is ambiguous; the carried state tells which half it is.
    assert max(losses[-20:]) < 0.01


def test_digits_read_row_by_row() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    rows = torch.tensor(images, dtype=torch.float32).view(-1, 8, 8).transpose(0, 1) / 16  # (T=8, N, 8)
    targets = torch.tensor(labels)
    train, test = torch.randperm(len(targets)).split([1400, len(targets) - 1400])
    model = LastOutput(8, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10):
        for batch in train.split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(rows[:, batch]), targets[batch]).backward()
            optimizer.step()
    accuracy = float((model(rows[:, test]).argmax(-1) == targets[test]).float().mean())
    assert accuracy > 0.9


def test_sentiment_from_the_last_state() -> None:
    praise, blame = "good great lovely fine".split(), "bad awful dull poor".split()
    filler = "the film was a very long story about some people".split()
    vocabulary = {word: i for i, word in enumerate(praise + blame + filler)}
    chance = random.Random(0)

    def review(positive: bool) -> list[int]:
        words = chance.choices(filler, k=8)
        words.insert(chance.randrange(9), chance.choice(praise if positive else blame))
        return [vocabulary[word] for word in words]

    labels = torch.arange(500) % 2
    reviews = torch.tensor([review(bool(label)) for label in labels]).T  # (T, 500)
    embedding, reader = nn.Embedding(len(vocabulary), 8), LastOutput(8, 16, 2)
    optimizer = torch.optim.Adam([*embedding.parameters(), *reader.parameters()], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(reader(embedding(reviews[:, :400])), labels[:400]).backward()
        optimizer.step()
    unseen = reader(embedding(reviews[:, 400:])).argmax(-1)
    assert float((unseen == labels[400:]).float().mean()) > 0.95
