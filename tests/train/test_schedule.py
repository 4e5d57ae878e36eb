import pytest

from saebench.train.schedule import Annealing, Schedule


def test_rises_to_the_peak_stays_and_falls_over_the_last_fifth():
    schedule = Schedule(peak=1.0, steps=100, warmup=0.05, decay=0.2)
    rates = [schedule.at(step) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[79:82] == pytest.approx([1.0, 1.0, 0.95])
    assert rates[-1] == pytest.approx(0.05)
    assert max(rates) == 1.0


def test_a_warmup_of_one_or_more_is_a_number_of_steps():
    schedule = Schedule(peak=3.0, steps=1000, warmup=4, decay=0.2)
    assert [schedule.at(step) for step in range(5)] == pytest.approx([0.75, 1.5, 2.25, 3.0, 3.0])


def test_neither_is_needed():
    schedule = Schedule(peak=2.0, steps=10, warmup=0, decay=0)
    assert {schedule.at(step) for step in range(10)} == {2.0}


def test_steps_past_the_last_keep_its_rate():
    schedule = Schedule(peak=1.0, steps=10, warmup=0, decay=0.2)
    assert schedule.at(50) == schedule.at(9) == 0.5


def test_overlapping_warmup_and_decay_take_the_lower_rate():
    schedule = Schedule(peak=1.0, steps=4, warmup=4, decay=1.0)
    assert [schedule.at(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.5, 0.25])


class TestAnnealing:
    def test_falls_linearly_over_its_share_of_the_steps_and_stays(self):
        annealing = Annealing(start=1000, k=100, steps=50, share=0.2)
        found = [annealing.at(step) for step in range(50)]
        assert found[:11] == [1000, 910, 820, 730, 640, 550, 460, 370, 280, 190, 100]
        assert set(found[10:]) == {100}

    def test_without_a_share_is_k_at_every_step(self):
        assert {Annealing(7, 7, 10, 0.0).at(step) for step in range(20)} == {7}

    def test_over_all_steps_is_above_k_until_the_last(self):
        found = [Annealing(20, 10, 5, 1.0).at(step) for step in range(6)]
        assert found == [20, 18, 16, 14, 12, 10]
