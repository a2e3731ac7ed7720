"""A model behind HTTP, against a server of this process that counts, and that fails on purpose."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.errors import InputError, RunError
from mithridate.models import service

SHAPE = (1, 8, 8)
WEIGHT = torch.randn((64, 10), generator=mi.rng(3)) / 2
SECRET = "Bearer s3cret"
GARBLE = (
    lambda out: b"<html>bad gateway</html>",
    lambda out: json.dumps(out).encode()[:-9],
    lambda out: json.dumps({"scores": out["scores"][1:]}).encode(),
    lambda out: json.dumps({"scores": [[float("nan")] * 10 for _ in out["scores"]]}).encode(),
    lambda out: json.dumps({"scores": [[1.0] * 10 for _ in out["scores"]]}).encode(),
    lambda out: json.dumps({"error": "busy"}).encode(),
)


def truth(x: Tensor) -> Tensor:
    """Probabilities (N, 10)."""
    return (x.double().flatten(1) @ WEIGHT.double()).softmax(1)


def scores(images: Any) -> Any:
    return {"scores": truth(torch.tensor(images["images"])).tolist()}


class Server:
    """Answers POST by `answer`, counts the images that it sees, and fails by chance."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], Any] = scores
        self.images, self.requests, self.headers = 0, 0, [""]
        self.drop = self.delay = self.garble = self.late = 0.0
        self.status, self.location = 200, ""
        self.chance, self.lock = random.Random(0), threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.respond(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/predict"

    def respond(self, to: BaseHTTPRequestHandler) -> None:
        asked = json.loads(to.rfile.read(int(to.headers["Content-Length"])))
        with self.lock:
            self.requests += 1
            self.images += len(next(iter(asked.values())))
            self.headers.append(to.headers.get("Authorization", ""))
            drop, delay, garble = (self.chance.random() for _ in range(3))
            how = self.chance.choice(GARBLE)
        if drop < self.drop:
            to.close_connection = True
            return
        if delay < self.delay:
            time.sleep(self.late)
        out = self.answer(asked)
        content = how(out) if garble < self.garble else json.dumps(out).encode()
        try:
            to.send_response(self.status)
            to.send_header("Content-Length", str(len(content)))
            if self.location:
                to.send_header("Location", self.location)
            to.end_headers()
            to.wfile.write(content)
        except OSError:  # the caller had no patience
            to.close_connection = True


@pytest.fixture
def server(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(service, "FIRST_WAIT", 0.001)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()
    forget()


def forget() -> None:
    """As another process would begin."""
    service.close()


def opened(server: Server, **endpoint: Any) -> Classifier:
    return mi.load(server.url, classes=10, image_shape=SHAPE, endpoint=endpoint)


def digits(n: int) -> tuple[Tensor, Tensor]:
    x, _ = mi.load_data("digits")[1].batch(range(n))
    return x, truth(x).argmax(1)


def test_scores_are_learned_kept_and_asked_about_once(server: Server) -> None:
    model, (x, y) = opened(server, batch=5), digits(12)
    assert (model.classes, model.outputs, model.gradients) == (10, "probabilities", False)
    learning = server.images
    torch.testing.assert_close(model.scores(x), truth(x).float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(model.labels(x.flip(0)), y.flip(0))
    assert server.images == learning + 12
    forget()
    again = opened(server)
    torch.testing.assert_close(again.scores(x), truth(x).float(), rtol=1e-4, atol=1e-6)
    assert server.images == learning + 12 + 4, "a new process asks whether it is still the same"


@pytest.mark.parametrize(
    ("images", "queries"), [(3, 120), pytest.param(20, 550, marks=pytest.mark.slow)]
)
def test_faults_change_nothing_and_the_budget_holds(
    server: Server, images: int, queries: int
) -> None:
    """5 % dropped, 5 % later than the time-out, 2 % garbled; with `slow`, of 10,000 queries."""
    x, y = digits(images)
    attacks = (
        mi.attacks.HopSkipJump(budget=queries),
        mi.attacks.Square(eps=0.3, queries=queries),
    )

    def run(**more: Any) -> list[Any]:
        model = opened(server, timeout=0.3, retries=12, batch=1, connections=8, **more)
        return [
            mi.run_attack(attack, model, x, mi.Untargeted(y), rng=mi.rng(0)) for attack in attacks
        ]

    right, asked = run(), server.images
    service.service_at(server.url).kept.clear()
    server.drop, server.delay, server.garble = 0.05, 0.05, 0.02
    server.late = 0.4
    forget()
    for one, other in zip(right, run(budget=4 * asked), strict=True):
        for name in ("adversarials", "success", "predicted", "row_queries"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert bool(one.success.any())
    print(f"{asked} images without faults, {server.images - asked} with them")
    assert server.images - asked > 1.05 * asked
    assert server.images <= service.service_at(server.url).kept.fact("sent") <= 4 * asked


def test_a_service_that_fails_for_good_is_told_and_gone_on_with(server: Server) -> None:
    model, (x, y) = opened(server, retries=2, batch=4), digits(8)
    assert torch.equal(model.labels(x[:4]), y[:4])
    server.status = 503
    asked = server.images
    with pytest.raises(RunError, match=r"answers 503 .* 3 times in a row: .*goes on") as e:
        model.labels(x)
    assert server.images == asked + 3 * 4, "what was answered is not asked again, nor the rest"
    assert "\n" not in str(e.value)
    server.status = 200
    assert torch.equal(model.labels(x), y)


def test_the_budget_is_of_the_address_and_of_every_process(server: Server) -> None:
    x, y = digits(8)
    opened(server, budget=11, batch=1)  # 8 of them to learn
    forget()
    with pytest.raises(RunError, match=r"budget of 11 images is spent \(11 were sent.*raise"):
        opened(server, budget=11, batch=1)
    assert server.images == 11
    model = opened(server, budget=11 + 4 + 8, batch=1)
    assert torch.equal(model.labels(x), y)


def test_rate(server: Server) -> None:
    model = opened(server, rate=50.0, batch=1)
    began = time.monotonic()
    model.labels(digits(11)[0])
    assert time.monotonic() - began > 10 / 50


FORMS = {
    "float": lambda x: x.tolist(),
    "float-nhwc": lambda x: x.permute(0, 2, 3, 1).tolist(),
    "uint8": lambda x: (255 * x).round().int().tolist(),
    "uint8-nhwc": lambda x: (255 * x).round().int().permute(0, 2, 3, 1).tolist(),
}


@pytest.mark.parametrize("form", [*FORMS, "png"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)])
@pytest.mark.parametrize("single", [False, True])
def test_what_goes_out(
    server: Server, form: str, shape: tuple[int, int, int], single: bool
) -> None:
    x = torch.randint(0, 256, (3, *shape), generator=mi.rng(0)) / 255
    seen: list[Any] = []

    def answer(asked: Any) -> Any:
        seen.append(asked)
        images = [asked["in"]] if single else asked["in"]
        return [[0.25, 0.75] for _ in images]

    server.answer = answer
    place = f"${'image' if single else 'images'}:{form}"
    request = json.dumps({"in": place, "size": "$shape", "note": "a"})
    model = mi.load(
        server.url, classes=2, image_shape=shape, endpoint={"request": request, "answer": "."}
    )
    seen.clear()
    model.labels(x)
    assert all(one["note"] == "a" for one in seen)
    images = [one["in"] for one in seen] if single else seen[0]["in"]
    sizes = [*shape[1:], shape[0]] if form.endswith("nhwc") else [*shape]
    assert seen[0]["size"] == [1 if single else 3, *sizes]
    if form == "png":
        pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in images]
        got = torch.tensor(np.stack(pixels)).reshape(3, shape[1], shape[2], shape[0])
        assert torch.equal(got.permute(0, 3, 1, 2), (255 * x).round().byte())
    else:
        assert images == FORMS[form](x)


NAMES = [f"class {k}" for k in range(10)]
ANSWERS: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "rows": (lambda p: p.tolist(), True),
    "tensorflow": (lambda p: {"predictions": p.tolist()}, True),
    "kserve": (
        lambda p: {"outputs": [{"name": "z", "data": p.flatten().tolist(), "shape": [len(p), 10]}]},
        True,
    ),
    "objects": (lambda p: {"found": [{"scores": row, "id": 7} for row in p.tolist()]}, True),
    "by name": (
        lambda p: [dict(reversed([*zip(NAMES, row, strict=True)])) for row in p.tolist()],
        True,
    ),
    "logits": (lambda p: {"logits": (p.log() + 3).tolist()}, True),
    "beside labels": (lambda p: {"p": p.tolist(), "label": p.argmax(1).tolist()}, True),
    "numbers": (lambda p: {"label": p.argmax(1).tolist(), "sure": p.max(1).values.tolist()}, False),
    "names": (lambda p: [{"label": NAMES[k]} for k in p.argmax(1).tolist()], False),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ANSWERS)
def test_what_comes_back_is_understood(server: Server, kind: str, batch: int) -> None:
    say, scored = ANSWERS[kind]
    server.answer = lambda asked: say(truth(torch.tensor(asked["images"])))
    model = mi.load(server.url, classes=NAMES, image_shape=SHAPE, endpoint={"batch": batch})
    x, y = digits(7)
    assert model.class_names == tuple(NAMES)
    assert torch.equal(model.labels(x), y)
    assert model.scored is scored
    if scored:
        torch.testing.assert_close(model.scores(x), truth(x).float(), rtol=1e-3, atol=1e-5)


def test_answers_by_name_are_kept_with_the_names(server: Server) -> None:
    server.answer = lambda asked: [
        "ab"[k % 2] for k in truth(torch.tensor(asked["images"])).argmax(1)
    ]
    x, y = digits(9)
    for names, flip in (("ab", 0), ("ba", 1)):
        model = mi.load(server.url, classes=[*names], image_shape=SHAPE)
        assert torch.equal(model.labels(x), (y + flip) % 2)


def test_labels_only_are_attacked_by_labels_only(server: Server) -> None:
    server.answer = lambda asked: truth(torch.tensor(asked["images"])).argmax(1).tolist()
    model, (x, y) = opened(server), digits(3)
    goal = mi.Untargeted(y)
    result = mi.run_attack(mi.attacks.HopSkipJump(budget=60), model, x, goal, rng=mi.rng(0))
    direct = Classifier(
        torch.nn.Sequential(torch.nn.Flatten(), linear()), classes=10, image_shape=SHAPE
    )
    again = mi.run_attack(mi.attacks.HopSkipJump(budget=60), direct, x, goal, rng=mi.rng(0))
    assert torch.equal(result.adversarials, again.adversarials)
    assert bool(result.success.all())
    smooth = mi.transforms.SpatialSmoothing(kind="median", window=3).wrap(model)
    for one in (model, smooth, mi.guards.QueryGuard(budget=9).wrap(model)):
        with pytest.raises(
            InputError, match=r"needs scores, .* labels only: .* hopskipjump, bound"
        ):
            mi.run_attack(mi.attacks.Square(eps=0.3, queries=9), one, x, goal, rng=mi.rng(0))
        with pytest.raises(InputError, match="labels only, no scores"):
            one.scores(x)
    with pytest.raises(InputError, match="needs gradients"):
        mi.run_attack(mi.attacks.FGSM(eps=0.1), model, x, goal, rng=mi.rng(0))


def linear() -> torch.nn.Linear:
    layer = torch.nn.Linear(64, 10, bias=False)
    layer.weight.data = WEIGHT.T.clone()
    return layer


def test_another_model_at_the_address_is_noticed(server: Server) -> None:
    from mithridate.models.open import source_digest

    about: dict[str, Any] = {"classes": 10, "image_shape": SHAPE}
    x, _ = digits(5)
    before = opened(server).labels(x)
    first = source_digest(server.url, **about)
    forget()
    assert source_digest(server.url, **about) == first
    server.answer = lambda asked: {"scores": truth(1 - torch.tensor(asked["images"])).tolist()}
    forget()
    assert source_digest(server.url, **about) != first
    after = opened(server).labels(x)
    assert torch.equal(after, truth(1 - x).argmax(1))
    assert not torch.equal(before, after)


def test_a_service_that_answers_at_random_is_asked_each_time(server: Server) -> None:
    chance = mi.rng(0)

    def answer(asked: Any) -> Any:
        p = truth(torch.tensor(asked["images"]))
        p = (p + torch.rand(p.shape, generator=chance)) / (1 + 5)
        return {"scores": (p / p.sum(1, keepdim=True)).tolist()}

    server.answer = answer
    model, (x, _) = opened(server), digits(4)
    assert [one[0] for one in model.info["doubts"]] == ["not-pinned", "random-answers"]
    asked = server.images
    assert not torch.equal(model.scores(x), model.scores(x))
    assert server.images == asked + 8


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda a: {"busy": True}, "no label and no scores of 10 classes for each of 4 images"),
        (lambda a: {"z": [[0.5] * 9] * 4}, "no label and no scores"),
        (lambda a: {"a": [1, 2, 3, 4], "b": [4, 5, 6, 7]}, "has numbers at a and b; .*answer=PATH"),
        (lambda a: {"p": [[0.3] * 10] * 4}, "do not sum to 1: say with --outputs"),
    ],
)
def test_answers_that_say_nothing(server: Server, answer: Any, words: str) -> None:
    server.answer = answer
    with pytest.raises(InputError, match=words) as e:
        opened(server)
    assert "\n" not in str(e.value)
    assert server.requests <= 3


def test_a_secret_is_sent_and_kept_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with pytest.raises(InputError, match="variable MY_TOKEN is not set"):
        opened(server, auth="MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", "two\nlines")
    with pytest.raises(InputError, match="is not the value of a header") as e:
        opened(server, auth="MY_TOKEN")
    assert "lines" not in str(e.value)
    monkeypatch.setenv("MY_TOKEN", SECRET)
    model = opened(server, auth="MY_TOKEN")
    model.labels(digits(3)[0])
    assert {*server.headers[1:]} == {SECRET}
    server.status, server.answer = 403, lambda asked: f"no entry with {SECRET}"
    with pytest.raises(InputError, match=r"answers 403 .*no entry with \*\*\*.*endpoint.auth") as e:
        model.labels(digits(9)[0])
    server.status = 413
    with pytest.raises(InputError, match=r"answers 413 .*endpoint.batch=N sends fewer"):
        model.labels(digits(9)[0])
    files = [place.read_bytes() for place in tmp_path.rglob("*") if place.is_file()]
    assert files
    assert not any(b"s3cret" in content for content in [*files, str(e.value).encode()])


def test_addresses_and_settings_that_cannot_be(server: Server) -> None:
    def refused(words: str, url: str = server.url, **endpoint: Any) -> None:
        with pytest.raises(InputError, match=words):
            mi.load(url, classes=10, image_shape=SHAPE, endpoint=endpoint)

    refused("where images go", request='{"images": []}')
    refused("is JSON, or one of", request="{")
    refused("no endpoint setting named 'budgt': did you mean 'budget'", budgt=3)
    refused("budget must be at least 1", budget="0")
    refused("would stand in the record", url="http://me:secret@host/")
    refused("cannot be reached .*is the service running", url="http://127.0.0.1:1/predict")
    server.status, server.location = 302, "http://elsewhere/login"
    refused("sends its callers to http://elsewhere/login")
    with pytest.raises(InputError, match="image_shape"):
        mi.load(server.url, classes=10)
    with pytest.raises(InputError, match="go with an address"):
        mi.load("m.safetensors", endpoint={"budget": 9})


def test_the_command_line_goes_on_where_the_budget_ended(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    from mithridate.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", SECRET)
    server.answer = lambda asked: {"scores": truth(torch.tensor(asked["images"])).tolist()}

    def attack(budget: int, *more: str) -> tuple[int, str, str]:
        words = (
            f"attack {server.url} --data digits --attack hopskipjump,square,pgd --samples 6 "
            f"--set hopskipjump.budget=60 --set square.queries=60 --set endpoint.budget={budget} "
            "--set endpoint.auth=MY_TOKEN --set endpoint.timeout=5 --quiet --json"
        )
        capsys.readouterr()
        code = main([*words.split(), *more])
        forget()
        return code, *capsys.readouterr()

    whole = attack(5000, "--out", "whole")
    assert whole[0] == 0, whole[2]
    asked = server.images
    (tmp_path / "cache").rename(tmp_path / "first")
    code, _, error = attack(asked - 60, "--out", "part")
    assert code == 4
    assert "raise endpoint.budget" in error
    assert server.images <= 2 * asked - 60
    code, plan, _ = attack(5000, "--out", "part", "--plan")
    assert code == 0
    assert json.loads(plan)["forwards"] > 0
    code, out, error = attack(5000, "--out", "part")
    assert code == 0, error
    assert 2 * asked <= server.images <= 2 * asked + 12, "each new process looks again"
    again, first = json.loads(out), json.loads(whole[1])
    for one, other in zip(again["attacks"], first["attacks"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert [one["status"] for one in again["attacks"]][:2] == ["done", "done"]
    assert "needs gradients" in again["attacks"][2]["status"]
    assert "not-pinned" in [doubt["id"] for doubt in again["attacks"][0]["doubts"]]
    assert again["clean_accuracy"]["n"] == 6
    for place in tmp_path.rglob("*"):
        assert not (place.is_file() and b"s3cret" in place.read_bytes())


def test_an_audit_says_what_can_be_done_without_gradients(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mithridate.cli.main import main

    server.answer = lambda asked: {"scores": truth(torch.tensor(asked["images"])).tolist()}
    audit = ["audit", server.url, "--data", "digits", "--quiet"]
    assert main(audit) == 2
    assert "take --inspector change-scan or white-noise" in capsys.readouterr().err
    assert main([*audit, "--inspector", "white-noise"]) == 2
    assert "give 8 clean ones by --reference" in capsys.readouterr().err
