"""Every hardener keeps to the contract."""

from __future__ import annotations

from mithridate.defenses.harden import (
    NFGSM,
    AdversarialTraining,
    DefensiveDistillation,
    FastAdversarialTraining,
    FreeAdversarialTraining,
    RejectFooling,
    Trades,
)
from mithridate.norms import L2
from mithridate.testing.hardeners import HardenerConformance


class TestAdversarialTraining(HardenerConformance):
    def make(self) -> AdversarialTraining:
        return AdversarialTraining(eps=0.1, steps=2)


class TestMixedWithCleanImages(HardenerConformance):
    def make(self) -> AdversarialTraining:
        return AdversarialTraining(
            eps=1.0, norm=L2, steps=1, ratio=0.5, clean=0.5, average=0.9, canary=0
        )


class TestFastAdversarialTraining(HardenerConformance):
    def make(self) -> FastAdversarialTraining:
        return FastAdversarialTraining(eps=0.1)


class TestNFGSM(HardenerConformance):
    def make(self) -> NFGSM:
        return NFGSM(eps=0.1, average=0.9)


class TestTrades(HardenerConformance):
    def make(self) -> Trades:
        return Trades(eps=0.1, steps=2)


class TestFreeAdversarialTraining(HardenerConformance):
    def make(self) -> FreeAdversarialTraining:
        return FreeAdversarialTraining(eps=0.1, replays=3, canary=0)


class TestDefensiveDistillation(HardenerConformance):
    def make(self) -> DefensiveDistillation:
        return DefensiveDistillation(temperature=20)


class TestRejectFooling(HardenerConformance):
    rejects = True

    def make(self) -> RejectFooling:
        return RejectFooling(rounds=1, images=6, share=0.2)
