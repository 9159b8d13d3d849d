"""The demo's policy, episodes and update, without any broker."""

from collections.abc import Sequence

import numpy as np
import pytest

from broker.demo import learner as learning
from broker.demo.learner import Episode, Learner
from broker.demo.policy import Policy, WeightsMismatch, log_probabilities, unpack
from broker.demo.worker import make_environment, play


def episodes(policy: Policy, seeds: Sequence[int]) -> list[Episode]:
    return play([make_environment() for _ in seeds], policy, seeds, np.random.default_rng(0))


def test_gradient_agrees_with_finite_differences() -> None:
    rng = np.random.default_rng(1)
    policy = Policy(rng.normal(size=len(Policy.initial(0).parameters)))
    observations, slope = rng.normal(size=(7, 4)), rng.normal(size=7)
    gradient = policy.gradient(observations, slope)
    for i in range(len(policy.parameters)):
        policy.parameters[i] += 1e-6
        above = float(policy.logits(observations) @ slope)
        policy.parameters[i] -= 2e-6
        below = float(policy.logits(observations) @ slope)
        policy.parameters[i] += 1e-6
        assert gradient[i] == pytest.approx((above - below) / 2e-6, abs=1e-5)


@pytest.mark.parametrize("by", [-1, 1])
def test_parameters_of_the_wrong_size_are_refused(by: int) -> None:
    with pytest.raises(ValueError, match="parameters do not make a policy"):
        Policy(np.zeros(len(Policy.initial(0).parameters) + by))


def test_log_probabilities_of_both_actions_add_up_to_one() -> None:
    logits = np.array([-800.0, -3.0, 0.0, 0.5, 800.0])
    left, right = log_probabilities(logits, np.zeros(5)), log_probabilities(logits, np.ones(5))
    assert np.exp(left) + np.exp(right) == pytest.approx(np.ones(5))
    assert np.isfinite(left).all()


def test_weights_travel_with_their_version() -> None:
    learner = Learner(3)
    found = Policy(unpack(learner.pack(7), 7)["policy"])
    assert np.array_equal(found.parameters, learner.policy.parameters)


@pytest.mark.parametrize(
    ("blob", "version"),
    [(Learner(3).pack(7), 8), (None, 7), (b"", 7), (Learner(3).pack(7)[:-1], 7), (b"x" * 300, 0)],
)
def test_weights_of_another_version_are_refused(blob: bytes | None, version: int) -> None:
    with pytest.raises(WeightsMismatch):
        unpack(blob, version)


def test_first_policy_follows_from_the_seed() -> None:
    assert np.array_equal(Policy.initial(3).parameters, Policy.initial(3).parameters)
    assert not np.array_equal(Policy.initial(3).parameters, Policy.initial(4).parameters)


def test_episodes_are_those_of_gymnasium() -> None:
    environment, policy = make_environment(), Policy.initial(0)
    for seed, episode in zip((5, 6), episodes(policy, (5, 6)), strict=True):
        observation, _ = environment.reset(seed=seed)
        is_over = False
        for step, action in enumerate(episode["actions"].tolist()):
            assert not is_over
            assert np.array_equal(observation, episode["observations"][step])
            observation, reward, fell, was_cut, _ = environment.step(action)
            assert reward == 1.0
            is_over = fell or was_cut
        assert is_over
        expected = log_probabilities(policy.logits(episode["observations"]), episode["actions"])
        assert episode["log_probs"] == pytest.approx(expected, abs=1e-6)
    environment.close()


@pytest.mark.parametrize("name", ["observations", "actions", "log_probs"])
def test_episode_with_arrays_that_do_not_fit_is_refused(name: str) -> None:
    episode: Episode = {
        "observations": np.zeros((4, 4), np.float32),
        "actions": np.zeros(4, np.uint8),
        "log_probs": np.zeros(4, np.float32),
    }
    Learner(0).update([episode])
    episode[name] = episode[name][:-1]  # pyright: ignore[reportGeneralTypeIssues]
    with pytest.raises(ValueError):
        Learner(0).update([episode])


def test_learner_goes_on_from_its_packed_state() -> None:
    batch = episodes(Policy.initial(0), range(8))
    one, other = Learner(0), Learner(0)
    one.update(batch)
    other.restore(unpack(one.pack(1), 1))
    one.update(batch)
    other.update(batch)
    assert np.array_equal(one.policy.parameters, other.policy.parameters)
    assert one.pack(2) == other.pack(2)


def test_batch_with_nothing_to_learn_from_does_no_harm() -> None:
    """All episodes alike, one step long: the advantages have no spread."""
    learner = Learner(0)
    learner.update(
        [
            {
                "observations": np.zeros((1, 4), np.float32),
                "actions": np.zeros(1, np.uint8),
                "log_probs": np.full(1, -0.7, np.float32),
            }
        ]
    )
    assert np.isfinite(learner.policy.parameters).all()


@pytest.mark.parametrize("max_staleness", [0, 2, 4])
def test_policy_learns_from_stale_rollouts(max_staleness: int) -> None:
    """Given rollouts mostly as stale as allowed, when it trains 20 steps, then the return is five times higher."""
    learner = Learner(0)
    versions = [learner.policy.parameters.copy()]
    returns: list[float] = []
    for step in range(20):
        batch: list[Episode] = []
        for group in range(4):
            version = max(0, step - (max_staleness if group else 0))
            starts = [(step * 4 + group) * 2 + i // 4 for i in range(8)]
            batch += episodes(Policy(versions[version]), starts)
        returns.append(learner.update(batch)["mean_return"])
        versions.append(learner.policy.parameters.copy())
    assert max(returns) <= 500
    assert np.mean(returns[-3:]) >= 5 * returns[0]


def test_stale_samples_are_weighed_by_how_likely_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MAX_WEIGHT", 1.0)
    batch = episodes(Policy.initial(0), range(8))
    learner = Learner(0)
    assert learner.update(batch)["mean_weight"] == pytest.approx(1.0, abs=1e-3)
    assert learner.update(batch)["mean_weight"] < 0.999
