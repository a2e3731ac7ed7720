"""A model behind an HTTP address: JSON goes out, labels or scores come back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mithridate.classifier import ROUNDED, SLACK, Classifier
from mithridate.component import parse
from mithridate.errors import InputError, check_number, check_whole, unknown
from mithridate.models.service import Garbled, Service, service_at

Shape = tuple[int, int, int]
Rows = NDArray[np.float32]

FORMS = ("float-nhwc", "float", "uint8-nhwc", "uint8", "png")
"""An image as a nested list C x H x W (nhwc: H x W x C) of numbers, or a base64 PNG."""
PLACE = re.compile(rf'"\$(images?):({"|".join(FORMS)})"')
WATCHED = 4
"""Images of noise, asked about whenever the service is opened: another model answers otherwise."""
PAIR = {"label", "score"}
"""What an entry of a list of scores may hold, as classification services write them."""
CLOSE = 1e-3
"""Scores that differ by less are the same: a server's rounding depends on its batch."""
HINT = "endpoint.answer=PATH says where they are, endpoint.batch=1 asks one by one"


def is_endpoint(source: str) -> bool:
    """Whether a source is an address.

    >>> is_endpoint("http://localhost:8000/predict"), is_endpoint("hf:org/name")
    (True, False)
    """
    return source.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How a service is asked.

    Args:
        request: JSON in which `"$images:FORM"` stands for a list of images, or `"$image:FORM"` for
            a single one; `"$shape"` for the list of their four sizes. FORM is float (numbers as
            the model's range has them), uint8 (0 to 255), both C x H x W, `float-nhwc`,
            `uint8-nhwc`, or `png` (base64). A FORM alone is short for `{"images": "$images:FORM"}`.
        answer: where in the answer the labels or scores are, as `outputs.0.data` or
            `predictions.*.scores`: names and places joined by dots, `*` for every entry of a list,
            `.` for the whole. None where it shall be learned from the first answers.
        budget: images that may be sent to this address in all, by whatever run on this cache,
            those sent again included. None for no limit.
        rate: requests a second, at most.
        timeout: seconds without a word from the service, after which it is asked again.
        retries: of one request.
        batch: images in one request.
        connections: requests at a time.
        auth: name of the environment variable that holds the header `Authorization`; or
            HEADER:VARIABLE. What it holds is kept nowhere.

    Raises:
        InputError: a value that cannot be one.

    >>> Endpoint.of({"request": "png", "budget": "1000"}).template
    '{"images": "$images:png"}'
    """

    request: str = "float"
    answer: str | None = None
    budget: int | None = None
    rate: float | None = None
    timeout: float = 30.0
    retries: int = 6
    batch: int = 16
    connections: int = 1
    auth: str | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "timeout"):
            if getattr(self, name) is not None:
                check_number(f"endpoint.{name}", getattr(self, name), low=0, open_low=True)
        for name, low in (("budget", 1), ("retries", 0), ("batch", 1), ("connections", 1)):
            if getattr(self, name) is not None:
                check_whole(f"endpoint.{name}", getattr(self, name), low=low)
        try:
            json.loads(self.template)
        except ValueError as error:
            known = ", ".join(FORMS)
            raise InputError(f"endpoint.request is JSON, or one of {known}: {error}") from None
        if len(PLACE.findall(self.template)) != 1:
            raise InputError(
                'endpoint.request says once where images go, as "$images:FORM" or "$image:FORM" '
                f"with FORM one of {', '.join(FORMS)}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any] | Endpoint | None) -> Endpoint:
        """Settings by name, strings read as what they are."""
        if isinstance(values, Endpoint):
            return values
        hints, known = get_type_hints(cls), [field.name for field in fields(cls)]
        for key in values or {}:
            if key not in known:
                raise unknown("endpoint setting", key, known)
        given = {k: parse(v, hints[k], f"endpoint.{k}") for k, v in (values or {}).items()}
        return cls(**given)

    @property
    def template(self) -> str:
        """The JSON of a request."""
        short = self.request in FORMS
        return json.dumps({"images": f"$images:{self.request}"}) if short else self.request

    @property
    def form(self) -> str:
        """One of `FORMS`."""
        return str(PLACE.findall(self.template)[0][1])

    @property
    def at_once(self) -> int:
        """Images in one request."""
        return 1 if PLACE.findall(self.template)[0][0] == "image" else self.batch

    def body(self, images: Sequence[str], shape: Shape) -> str:
        """A request for some images, each in JSON."""
        sizes = (*shape[1:], shape[0]) if self.form.endswith("nhwc") else shape
        several = self.at_once > 1 or '"$images' in self.template
        value = f"[{','.join(images)}]" if several else images[0]
        text = PLACE.sub(lambda _: value, self.template)
        return text.replace('"$shape"', json.dumps([len(images), *sizes]))


class Facts(NamedTuple):
    """What a service was seen to do.

    Attributes:
        answer: where in an answer labels or scores are.
        labels: it gives labels alone.
        rows: its answers for the images that are watched, (n, K) scores or (n, 1) labels.
        random: it answers the same images in several ways.
        seconds: for an image.
    """

    answer: str
    labels: bool
    rows: Rows
    random: bool
    seconds: float

    @property
    def sums_to_one(self) -> bool:
        return not self.labels and _distributions(self.rows)


def open_endpoint(
    url: str,
    *,
    endpoint: Endpoint,
    classes: int | Sequence[str] | Mapping[Any, str] | None = None,
    image_shape: Shape | None = None,
    outputs: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Classifier:
    """A classifier of labels and scores, or of labels alone, as the service gives.

    Args:
        classes: how many, or the names in the service's order, where it gives labels.
        image_shape: (C, H, W).
        outputs: as `Classifier` has it; by default probabilities where the answers sum to 1.
        bounds: of the pixels sent as numbers; 8-bit ones have bounds of their own.

    Raises:
        InputError: images of unknown shape, no such service, or answers that cannot be read.
        RunError: the budget is spent, or the service gives no answer.
    """
    asked = _Asked(url, endpoint, classes, image_shape)
    facts = asked.facts()
    if not facts.labels and outputs is None:
        outputs = _outputs(url, facts)
    info: dict[str, Any] = {"runtime": "http", "seconds": facts.seconds, "doubts": [
        ["not-pinned", f"{url} is a service: what answers there has no file to be known by."]
    ]}  # fmt: skip
    if facts.random:
        text = "The same image is answered in several ways: success is that of one answer."
        info["doubts"].append(["random-answers", text])
    width = facts.rows.shape[1]
    return Classifier(
        EndpointModule(asked, facts),
        classes=(asked.count or 0) if facts.labels else max(2, width),
        image_shape=asked.shape,
        outputs="probabilities" if facts.labels else outputs or "logits",
        bounds=bounds if endpoint.form.startswith("float") else (0.0, 255.0),
        channels_last=False,
        gradients=False,
        scored=not facts.labels,
        info=info,
    )


def endpoint_digest(
    url: str, *, endpoint: Endpoint, classes: Any = None, image_shape: Shape | None = None
) -> str:
    """What a service is known by: address, schema, and its answers to the images watched.

    Raises:
        InputError, RunError: as `open_endpoint`.
    """
    asked = _Asked(url, endpoint, classes, image_shape)
    return asked.digest(asked.facts())


class EndpointModule(nn.Module):
    """Images (N, C, H, W) -> scores (N, K), or 1 at the label (N, K); no gradients."""

    name: Tensor

    def __init__(self, asked: _Asked, facts: Facts) -> None:
        super().__init__()
        self.asked, self.facts = asked, facts
        digest = bytes.fromhex(asked.digest(facts))
        self.register_buffer("name", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """The service's answers, each image asked about once unless it answers at random."""
        rows = torch.from_numpy(self.asked.rows(self.asked.texts(x), self.facts))
        if not self.facts.labels:
            return rows
        return nn.functional.one_hot(rows[:, 0].long(), self.asked.count or 0).float()


class _Asked:
    """One service, asked about images of one shape."""

    def __init__(
        self, url: str, endpoint: Endpoint, classes: Any, image_shape: Shape | None
    ) -> None:
        if image_shape is None:
            raise InputError(f"{url}: which images it takes is not known: give image_shape=(C,H,W)")
        named = classes is not None and not isinstance(classes, int)
        self.names = Classifier(nn.Identity(), classes=classes).class_names if named else ()
        self.count: int | None = len(self.names) if named else classes
        self.url, self.endpoint, self.shape = url, endpoint, image_shape
        self.service.settings = endpoint

    @property
    def service(self) -> Service:
        return service_at(self.url)

    def digest(self, facts: Facts) -> str:
        """Of address, schema and answers; `Facts.rows` are rounded as services round."""
        seen = "random" if facts.random else (np.round(facts.rows, 3) + 0.0).tolist()
        about = [self.url, self.endpoint.template, facts.answer, facts.labels, seen]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def texts(self, x: Tensor) -> list[str]:
        """Each image in JSON."""
        form, values = self.endpoint.form, x.detach().cpu().float()
        if form == "png":
            return [json.dumps(_png(image)) for image in values]
        values = values.permute(0, 2, 3, 1) if form.endswith("nhwc") else values
        values = values.round().clamp(0, 255).byte() if form.startswith("uint8") else values
        return [json.dumps(image.tolist()) for image in values]

    def rows(self, texts: list[str], facts: Facts) -> Rows:
        """An answer for each image, from the cache where it was asked about before."""
        read, kept = self._reader(facts), self.service.kept
        if facts.random:
            return np.concatenate([*self._asked(texts, read)])
        # Which number a name or a place in a list becomes, depends on the classes too.
        schema = repr((self.endpoint.template, facts.answer, self.names, self.count)).encode()
        keys = [hashlib.sha256(schema + text.encode()).digest() for text in texts]
        there, wanted = kept.get(keys), dict(zip(keys, texts, strict=True))
        new = [key for key in wanted if key not in there]
        size = self.endpoint.at_once
        for at, rows in enumerate(self._asked([wanted[key] for key in new], read)):
            part = dict(zip(new[at * size :], (row.tobytes() for row in rows), strict=False))
            kept.put(part)
            there |= part
        return np.stack([np.frombuffer(there[key], np.float32) for key in keys])

    def _asked(self, texts: list[str], read: Callable[[Any, int], Rows]) -> Iterator[Rows]:
        """The answers to one request after another."""
        size = self.endpoint.at_once
        parts = [texts[at : at + size] for at in range(0, len(texts), size)]

        def work(part: list[str]) -> Rows:
            body = self.endpoint.body(part, self.shape)
            return self.service.ask(body, len(part), lambda answer: read(answer, len(part)))

        return self.service.each(work, parts)

    def _reader(self, facts: Facts) -> Callable[[Any, int], Rows]:
        """Reads an answer for n images; one that cannot be is garbled."""
        sums, width = facts.sums_to_one, facts.rows.shape[1]

        def read(answer: Any, n: int) -> Rows:
            labels, rows = self._read(answer, facts.answer, n)
            if labels != facts.labels or rows.shape[1] != width:
                raise Garbled(f"gave {_what(labels, rows)} where {_what(facts[1], facts.rows)} are")
            if sums and not _distributions(rows, rounding=ROUNDED):
                raise Garbled("gave probabilities that do not sum to 1")
            return rows

        return read

    def _read(self, answer: Any, path: str, n: int) -> tuple[bool, Rows]:
        value = _at(answer, [step for step in path.split(".") if step])
        return rows_of(value, n, self.names, self.count)

    def facts(self) -> Facts:
        """What the service does: as kept, and seen to be still so once in a process."""
        about = (self.endpoint.template, self.endpoint.answer, self.shape, self.names, self.count)
        known, kept = self.service.known, self.service.kept
        if about not in known:
            name = hashlib.sha256(repr(about).encode()).hexdigest()
            noted = json.loads(kept.fact(name, "null"))
            old = None if noted is None else Facts(**noted | {"rows": np.float32(noted["rows"])})
            facts = self._settled(old)
            if old is not None and not _same(old, facts):
                kept.clear()  # another model answers now
            kept.note(name, json.dumps(facts._asdict() | {"rows": facts.rows.tolist()}))
            known[about] = facts
        return known[about]  # type: ignore[no-any-return]

    def _settled(self, old: Facts | None) -> Facts:
        """What two answers out of three agree on; where none do, the service is random."""
        seen = [] if old is None else [old]
        if old is not None and old.random:  # that it was is enough
            return self._watched()._replace(random=True)
        while len(seen) < 3:
            new = self._watched()
            for earlier in seen:
                if _same(earlier, new):
                    return earlier
            seen.append(new)
        return seen[-1]._replace(random=True)

    def _watched(self) -> Facts:
        """The answers to the images watched, and where in them they were found."""
        number = WATCHED - WATCHED % min(WATCHED, self.endpoint.at_once)  # the same in each request
        pixels = torch.rand((number, *self.shape), generator=torch.Generator().manual_seed(0))
        pixels = (255 * pixels).round()
        texts = self.texts(pixels / 255 if self.endpoint.form.startswith("float") else pixels)
        found: set[tuple[str, bool, int]] = set()
        unread: list[Garbled] = []

        def read(answer: Any, n: int) -> Rows:
            try:
                path = self.endpoint.answer or self._path(answer, n)
                labels, rows = self._read(answer, path, n)
            except Garbled as error:
                unread.append(error)
                if len(unread) == 3:  # no accident
                    raise InputError(f"{self.url} {error}; {HINT}") from None
                raise
            found.add((path, labels, rows.shape[1]))
            return rows

        began = time.perf_counter()
        parts = [*self._asked(texts, read)]
        seconds = (time.perf_counter() - began) / number
        if len(found) > 1:
            raise InputError(f"{self.url} answers in several forms; {HINT}")
        path, labels, _ = found.pop()
        return Facts(path, labels, np.concatenate(parts), False, seconds)

    def _path(self, answer: Any, n: int) -> str:
        """Where scores are, or else labels; learned from an answer for n images."""
        fitting: list[tuple[str, bool, Rows]] = []
        for steps in _paths(answer):
            try:
                labels, rows = self._read(answer, ".".join(steps), n)
            except Garbled:
                continue
            whole = n == 1 or self.count is not None or labels
            same = [r for _, other, r in fitting if other == labels and np.array_equal(r, rows)]
            if whole and not same:
                fitting.append((".".join(steps) or ".", labels, rows))
        scores = [path for path, labels, _ in fitting if not labels]
        found = scores or [path for path, _, _ in fitting]
        if len(found) == 1:
            return found[0]
        if not found:
            which = f"of {self.count} classes" if self.count else "of a number of classes not told"
            said = json.dumps(answer)[:80]
            raise Garbled(f"gave no label and no scores {which} for each of {n} images: {said}")
        raise InputError(f"{self.url} has numbers at {' and '.join(found)}; {HINT}")


def rows_of(
    value: Any, n: int, names: Sequence[str] = (), count: int | None = None
) -> tuple[bool, Rows]:
    """Whether a JSON value holds labels, and the rows (n, 1) of labels or (n, K) of scores.

    A label is a whole number or a name; scores are a list, or an object of all names. Numbers in
    one list are cut into n rows.

    Raises:
        Garbled: it holds neither.

    >>> rows_of([2, "cat"], 2, ["cat", "dog", "owl"], 3)
    (True, array([[2.],
           [0.]], dtype=float32))
    >>> one = [{"label": "dog", "score": 0.9}, {"label": "cat", "score": 0.1}]
    >>> rows_of([one], 1, ["cat", "dog"])
    (False, array([[0.1, 0.9]], dtype=float32))
    >>> rows_of([0.1, 0.9], 1)
    (False, array([[0.1, 0.9]], dtype=float32))
    """
    entries = value if isinstance(value, list) else [value]
    numbers = all(_number(one) for one in entries)
    if len(entries) != n and numbers and entries and len(entries) % n == 0:
        width = len(entries) // n
        entries = [entries[at : at + width] for at in range(0, len(entries), width)]
    if len(entries) != n:
        raise Garbled(f"gave {len(entries)} answers for {n} images")
    read = [_entry(one, names, count) for one in entries]
    if len({(labels, len(row)) for labels, row in read}) != 1:
        raise Garbled("gave answers of several lengths")
    rows = np.array([row for _, row in read], np.float32)
    if not np.isfinite(rows).all():
        raise Garbled("gave NaN or infinite scores")
    return read[0][0], rows


def _entry(one: Any, names: Sequence[str], count: int | None) -> tuple[bool, list[float]]:
    """One image's answer: whether it is a label, and the numbers."""
    listed = one if isinstance(one, list) else []
    if listed and all(isinstance(pair, dict) and set(pair) >= PAIR for pair in listed):
        one = {str(pair["label"]): pair["score"] for pair in listed}
    if isinstance(one, dict) and names and set(one) == set(names):
        one = [one[name] for name in names]
    if isinstance(one, list) and one and all(_number(v) for v in one):
        if count is not None and len(one) not in (count, 1):
            raise Garbled(f"gave {len(one)} scores for {count} classes")
        return False, one
    if isinstance(one, str) and one in names:
        return True, [list(names).index(one)]
    if isinstance(one, int) and not isinstance(one, bool) and count:
        if 0 <= one < count:
            return True, [one]
        raise Garbled(f"gave label {one}, and they are 0 to {count - 1}: does it count from 1?")
    raise Garbled(f"gave {json.dumps(one)[:60]} for an image")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(value: Any, steps: Sequence[str]) -> Any:
    """What stands at a path.

    >>> _at({"found": [{"label": 3}, {"label": 1}]}, ["found", "*", "label"])
    [3, 1]
    """
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if step == "*" and isinstance(value, list):
        return [_at(one, rest) for one in value]
    if isinstance(value, dict) and step in value:
        return _at(value[step], rest)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return _at(value[int(step)], rest)
    raise Garbled(f"has nothing at {'.'.join(steps)}")


def _paths(value: Any) -> Iterator[list[str]]:
    """Every place of a JSON value, the outermost first; entries of a list are looked at alike.

    >>> [*_paths({"a": [{"b": 1}], "c": 2})]
    [[], ['a'], ['a', '*', 'b'], ['a', '0'], ['a', '0', 'b'], ['c']]
    """
    yield []
    if isinstance(value, dict):
        for key in value:
            yield from ([key, *rest] for rest in _paths(value[key]) if "." not in key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from (["*", *rest] for rest in _paths(value[0]) if rest)
        for at, one in enumerate(value[:WATCHED]):
            yield from ([str(at), *rest] for rest in _paths(one))


def _same(one: Facts, other: Facts) -> bool:
    if one[:2] != other[:2] or one.rows.shape[1] != other.rows.shape[1]:
        return False
    few = min(len(one.rows), len(other.rows))
    return np.allclose(one.rows[:few], other.rows[:few], rtol=CLOSE, atol=CLOSE)


def _distributions(rows: Rows, rounding: float = 0.0) -> bool:
    """Whether they are probabilities, each of them off by no more than `rounding`."""
    if rows.shape[1] < 2:
        return False
    sums = np.abs(rows.sum(1) - 1) <= SLACK + rounding * rows.shape[1]
    return bool((sums & (rows >= -1e-6).all(1)).all())


def _outputs(url: str, facts: Facts) -> str:
    """Probabilities or logits, by what was seen."""
    if facts.sums_to_one:
        return "probabilities"
    if facts.rows.min() >= 0 and facts.rows.max() <= 1:
        raise InputError(
            f"{url} gives numbers in [0, 1] that do not sum to 1: say with --outputs what they are"
        )
    return "logits"


def _what(labels: bool, rows: Rows) -> str:
    return "labels" if labels else f"{rows.shape[1]} scores an image"


def _png(image: Tensor) -> str:
    pixels = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    if pixels.shape[2] not in (1, 3):
        raise InputError(f"a PNG has 1 or 3 channels, the images have {pixels.shape[2]}")
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
