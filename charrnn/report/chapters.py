"""All that a report tells of one run."""

from dataclasses import dataclass

from markupsafe import Markup

from charrnn.report.calibration import Calibration, calibrate
from charrnn.report.curves import draw_calibration
from charrnn.report.embeddings import Map, draw_map
from charrnn.report.header import list_facts, write_command
from charrnn.report.neurons import Neuron, find_neurons
from charrnn.report.passage import Predictions, Sheet, find_typical, find_worst
from charrnn.report.reading import Reading, read
from charrnn.report.records import TrainingSample, samples
from charrnn.report.samples import Copies, find_copies, write_at_temperatures
from charrnn.report.subject import Subject
from charrnn.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """Predictions of text that the model was not trained on."""

    num_symbols: int
    bits_per_symbol: float
    passage: Sheet
    worst: list[Sheet]
    calibration: Calibration
    chart: Markup
    neurons: list[Neuron]
    missed: dict[str, float]
    """Features that no unit follows, and their correlations."""


@dataclass(frozen=True)
class Chapter:
    """One run on the page. What cannot be told, for want of the text, is None."""

    name: str
    tokenizer: Tokenizer
    noun: str
    facts: dict[str, str]
    command: list[str]
    training_samples: list[TrainingSample]
    temperatures: list[tuple[float, str]]
    copies: Copies | None
    map: Map | None
    held_out: HeldOut | None
    has_text: bool


def write_chapter(subject: Subject, predictions: Predictions) -> Chapter:
    """The chapter of a run; the predictions of its passages are added to those of the page."""
    reading = read(subject.model, subject.held_out, subject.show)
    return Chapter(
        name=subject.name,
        tokenizer=subject.tokenizer,
        noun=subject.noun,
        facts=list_facts(subject),
        command=write_command(subject),
        training_samples=samples(subject.records),
        temperatures=write_at_temperatures(subject),
        copies=find_copies(subject),
        map=draw_map(subject.model, subject.tokenizer, subject.names),
        held_out=None if reading is None else _describe(subject, reading, predictions),
        has_text=subject.has_text,
    )


def _describe(subject: Subject, reading: Reading, predictions: Predictions) -> HeldOut:
    begin, end = find_typical(reading)
    calibration = calibrate(reading)
    worst = [predictions.add(reading, subject.names, *each) for each in find_worst(reading)]
    neurons, missed = find_neurons(subject, reading, begin, end)
    return HeldOut(
        num_symbols=len(reading.texts),
        bits_per_symbol=reading.bits_per_symbol,
        passage=predictions.add(reading, subject.names, begin, end),
        worst=sorted(worst, key=lambda sheet: -sheet.bits_per_symbol),
        calibration=calibration,
        chart=draw_calibration(calibration),
        neurons=neurons,
        missed=missed,
    )
