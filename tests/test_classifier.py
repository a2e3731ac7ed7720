import pytest
import torch
from torch import nn

from mithridate import rng as random
from mithridate.classifier import Classifier, Guarded, check_images
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.training import fit


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def images(n=10):
    return torch.rand((n, 1, 8, 8), generator=random.rng(1))


@pytest.mark.parametrize("training", [True, False])
def test_frozen_restores_everything(training):
    module = network().train(training)
    module[0].weight.requires_grad_(False)
    before = [
        (p, p.requires_grad, p.stride(), p.data_ptr(), p.clone()) for p in module.parameters()
    ]
    with Classifier(module, classes=3).frozen():
        assert not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
    assert all(m.training is training for m in module.modules())
    for p, wanted, stride, place, value in before:
        assert (p.requires_grad, p.stride(), p.data_ptr()) == (wanted, stride, place)
        assert torch.equal(p, value)


def test_frozen_restores_after_an_error():
    model = Classifier(network().train(), classes=3)
    with pytest.raises(RuntimeError), model.frozen():
        raise RuntimeError
    assert model.module.training
    model.logits(images(1))
    assert model.module.training


def test_frozen_nests():
    model = Classifier(network().train(), classes=3)
    with model.frozen():
        with model.frozen():
            pass
        assert not model.module.training
    assert model.module.training


def test_channels_last_reaches_a_one_channel_first_layer():
    """Else the first convolution, and all behind it, stay in the slow layout."""
    model = Classifier(network(), classes=3, channels_last=True)
    seen = []
    model.module[0].register_forward_hook(lambda m, args, out: seen.append(out))
    model.logits(images())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_module_for_which_torch_writes_out_of_bounds_keeps_the_default_layout():
    """A stride on a 1 x 1 convolution of few channels: training it channels-last killed Python."""
    narrow = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.Flatten(), nn.Linear(32, 3))
    for model in (Classifier(narrow, classes=3, channels_last=c) for c in (None, True, False)):
        assert not model.channels_last
    ticks = iter(range(99))
    model.settle(lambda: float(next(ticks)), (3, 4, 4), batches=(1, 2))
    assert not model.channels_last
    x = torch.rand((64, 3, 4, 4), generator=random.rng(0))
    data = ImageSet.from_float(x, torch.arange(64) % 3, ["a", "b", "c"])
    trained = fit(model, data, epochs=9, rng=random.rng(0))
    assert trained.logits(x).isfinite().all()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("compute_batch", [1, 3, 128])
def test_gradient_is_autograds_on_the_whole_batch(compute_batch, channels_last):
    module, x = network().eval(), images()
    goal = Targeted([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(goal.loss(module(leaf)).sum(), leaf)[0]
    model = Classifier(module, classes=3, compute_batch=compute_batch, channels_last=channels_last)
    gradient, logits = model.gradient(x, goal)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits, module(x).detach(), rtol=1e-4, atol=1e-6)
    assert (model.cost.queries, model.cost.gradients) == (10, 10)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("compute_batch", [3, 128])
def test_the_ledger_sees_whole_calls_not_passes(compute_batch):
    """Ten images for five rows come as chunks of 3, 3, 3 and 1: still two for each row."""
    model, x = Classifier(network(), classes=3, compute_batch=compute_batch), images()
    goal = Targeted([0] * 10)
    with model.cost.by_row(6) as ledger, model.cost.on_rows(slice(1, 6)):
        model.labels(x)
        model.scores(x[:5])
        model.gradient(x, goal)
        model.gradient(x[:0], goal[:0])
    assert (ledger.counts.tolist(), ledger.broken) == ([0, 5, 5, 5, 5, 5], False)
    assert (model.cost.queries, model.cost.gradients) == (25, 10)


def test_bounds_scale_the_input_and_the_gradient():
    seen = []
    flat = nn.Flatten()
    flat.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    x = torch.tensor([[[[0.0, 1.0]]]])
    gradient, _ = Classifier(flat, classes=2, bounds=(-1, 3)).gradient(x, Targeted([0]))
    assert seen[0].flatten().tolist() == [-1, 3]
    plain, _ = Classifier(flat, classes=2).gradient(seen[0], Targeted([0]))
    torch.testing.assert_close(gradient, 4 * plain)


def test_probabilities_become_logits():
    module, x = network().eval(), images()
    soft = Classifier(nn.Sequential(module, nn.Softmax(1)), classes=3, outputs="probabilities")
    plain = Classifier(module, classes=3)
    torch.testing.assert_close(soft.scores(x), plain.scores(x))
    assert torch.equal(soft.labels(x), plain.labels(x))


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(1), nn.Sigmoid()])
def test_logits_stated_as_probabilities_are_refused(last):
    wrong = Classifier(nn.Sequential(network().eval(), last), classes=3, outputs="probabilities")
    with pytest.raises(InputError, match=r"--outputs probabilities\) is stated: leave it out"):
        wrong.logits(images())


def test_features_are_the_input_of_the_last_layer():
    module, x = network().eval(), images()
    found = Classifier(module, classes=3, compute_batch=4).features(x)
    torch.testing.assert_close(found, module[:-1](x).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_what_is_built_around_a_core_keeps_range_and_outputs(outputs):
    module = nn.Sequential(network(), nn.Softmax(1)) if outputs == "probabilities" else network()
    model = Classifier(
        module.eval(),
        classes=["a", "b", "c"],
        bounds=(-2, 2),
        outputs=outputs,
        compute_batch=3,
        channels_last=False,
        info={"n": 1},
    )
    again = model.around(model.core(), info={"n": 2}, attacker=lambda: model)
    assert torch.equal(again.logits(images()), model.logits(images()))
    assert torch.equal(again.features(images()), model.features(images()))
    assert (again.compute_batch, again.channels_last, again.class_names) == (3, False, tuple("abc"))
    assert (again.info, model.info, again.rejected) == ({"n": 2}, {"n": 1}, None)
    assert again.attacker() is model.attacker() is model


def test_a_rejecting_classifier_has_a_class_more_once():
    model = Classifier(nn.Flatten(), classes=2)
    pad = nn.Sequential(model.core(), nn.ConstantPad1d((0, 1), 9.0))
    wrapped = model.around(pad, info={}, attacker=lambda: model, rejects=True)
    assert (wrapped.classes, wrapped.rejected, wrapped.class_names[2]) == (3, 2, "rejected")
    again = wrapped.around(wrapped.core(), info={}, attacker=lambda: model, rejects=True)
    assert (again.classes, again.rejected) == (3, 2)
    assert again.labels(torch.zeros(1, 1, 1, 2)).tolist() == [2]


def test_guards_nest_and_the_model_behind_certifies():
    model, seen = Classifier(network(), classes=3), []
    inner = Guarded(model, lambda x: seen.append(("inner", len(x))))
    outer = Guarded(inner, lambda x: seen.append(("outer", len(x))))
    assert torch.equal(outer.scores(images()), model.scores(images()))
    assert seen == [("outer", 10), ("inner", 10)]
    assert outer.model is model
    assert outer.cost is model.cost
    assert outer.attacker() is outer


def test_empty_batches():
    model, none = Classifier(network(), classes=3), images(0)
    assert model.logits(none).shape == (0, 3)
    gradient, logits = model.gradient(none, Untargeted([]))
    assert (gradient.shape, logits.shape) == (none.shape, (0, 3))


def test_scores_carry_no_graph():
    x = images().requires_grad_()
    assert not Classifier(network(), classes=3).scores(x).requires_grad
    assert Classifier(network(), classes=3).logits(x).requires_grad


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": 1}, "at least 2"),
        ({"classes": 3, "bounds": (1, 0)}, "low < high"),
        ({"classes": 3, "outputs": "odds"}, "'logits', 'probabilities' or 'sigmoid'"),
        ({"classes": 3, "rejected": 3}, "one of the 3 classes"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(InputError, match=said):
        Classifier(network(), **settings)


def test_wrong_number_of_classes_is_named():
    with pytest.raises(InputError, match="number of classes"):
        Classifier(network(), classes=10).labels(images())


def test_a_function_is_no_module():
    with pytest.raises(InputError, match="got function"):
        Classifier(lambda x: x, classes=2)


def test_an_exported_program_is_refused_in_one_line():
    """It was NotImplementedError, and the classifier held itself for frozen ever after."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    program = torch.export.export(net, (torch.rand(2, 1, 2, 2),)).module()
    with pytest.raises(InputError, match="load its weights"):
        Classifier(program, classes=2)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_of_torchscript_is_refused_in_one_line():
    traced = torch.jit.trace(nn.Linear(4, 2), torch.rand(1, 4))
    with pytest.raises(InputError, match="TorchScript"):
        Classifier(nn.Sequential(nn.Flatten(), traced), classes=2)


def test_settle_keeps_what_the_clock_says_is_fastest():
    ticks = iter([0, 5, 0, 4, 0, 1, 0, 3])
    model = Classifier(network(), classes=3)
    said = model.settle(lambda: next(ticks), (1, 8, 8), batches=(2, 4))
    assert (model.channels_last, model.compute_batch) == (False, 2)
    assert said == "batches of 2, default layout, on cpu"


def test_check_images_clips_rounding_only():
    x = torch.tensor([-5e-7, 1 + 5e-7]).view(1, 1, 1, 2)
    assert check_images(x).flatten().tolist() == [0, 1]
    with pytest.raises(InputError, match="infinite"):
        check_images(torch.full((1, 1, 1, 1), float("inf")))


class _Root(nn.Module):
    """Logits of x ** 0.5 and of x: the first has no slope at a black pixel."""

    def forward(self, x):
        return torch.stack([x.flatten(1).sqrt().sum(1), 2 * x.flatten(1).sum(1)], 1)


def test_where_a_black_pixel_has_no_slope_it_is_taken_further_inside():
    model = Classifier(_Root(), classes=2)
    x = torch.tensor([[[[0.0, 0.25]]], [[[1.0, 0.25]]]])
    slope, _ = model.gradient(x, Untargeted([1, 1]))
    assert bool(slope.isfinite().all())
    torch.testing.assert_close(slope[0, 0, 0].sign(), torch.tensor([-1.0, 1.0]))
    alone, _ = model.gradient(x[1:], Untargeted([1]))
    torch.testing.assert_close(alone, slope[1:])
    model.compute_batch = 1  # whose passes they are is known all the same
    with model.cost.by_row(2) as ledger:
        parts, _ = model.gradient(x, Untargeted([1, 1]))
    assert torch.equal(parts, slope)
    assert (ledger.counts.tolist(), ledger.broken) == ([2, 2], False)
    bare, _ = model.gradient(x, Untargeted([1, 1]), finite=False)
    assert not bool(bare.isfinite().all())
