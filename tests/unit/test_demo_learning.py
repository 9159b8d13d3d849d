"""The demo's policy, episodes and update, without any broker."""

from typing import Any

import numpy as np
import pytest

from broker.demo.episodes import MAX_STEPS, Arena, Trajectory
from broker.demo.learner import Learner, LearnerConfig
from broker.demo.network import Adam, Network, initial_parameters, parameter_count
from broker.demo.policy import CartPolicy, WeightsMismatch, log_probabilities, pack_weights, unpack_weights


def test_gradient_agrees_with_finite_differences() -> None:
    rng = np.random.default_rng(1)
    network = Network(initial_parameters(5, rng, output_scale=1.0))
    observations, slope = rng.normal(size=(7, 4)), rng.normal(size=7)
    _, activations = network.forward_with_gradient(observations)
    gradient = network.gradient(observations, activations, slope)
    for i in range(parameter_count(5)):
        network.parameters[i] += 1e-6
        above = float(network.forward(observations) @ slope)
        network.parameters[i] -= 2e-6
        below = float(network.forward(observations) @ slope)
        network.parameters[i] += 1e-6
        assert gradient[i] == pytest.approx((above - below) / 2e-6, abs=1e-5)


def test_parameters_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError):
        Network(np.zeros(parameter_count(5) + 1))


def test_adam_finds_a_minimum() -> None:
    adam, place = Adam(2, 0.05), np.array([3.0, -2.0])
    for _ in range(500):
        adam.update(place, 2 * place)
    assert np.abs(place).max() < 0.01


def test_log_probabilities_of_both_actions_add_up_to_one() -> None:
    logits = np.array([-800.0, -3.0, 0.0, 0.5, 800.0])
    left, right = log_probabilities(logits, np.zeros(5)), log_probabilities(logits, np.ones(5))
    assert np.exp(left) + np.exp(right) == pytest.approx(np.ones(5))
    assert np.isfinite(left).all()


def test_weights_travel_with_their_version() -> None:
    policy = CartPolicy.initial(3)
    found = unpack_weights(pack_weights(7, policy), 7)
    assert np.array_equal(found.parameters, policy.parameters)


@pytest.mark.parametrize(
    ("blob", "version"),
    [
        (pack_weights(7, CartPolicy.initial(3)), 8),
        (b"", 7),
        (pack_weights(7, CartPolicy.initial(3))[:-1], 7),
        (b"x" * 300, 0),
    ],
)
def test_weights_of_another_version_are_refused(blob: bytes, version: int) -> None:
    with pytest.raises(WeightsMismatch):
        unpack_weights(blob, version)


def test_first_policy_follows_from_the_seed() -> None:
    assert np.array_equal(CartPolicy.initial(3).parameters, CartPolicy.initial(3).parameters)
    assert not np.array_equal(CartPolicy.initial(3).parameters, CartPolicy.initial(4).parameters)


def test_episodes_are_those_of_gymnasium() -> None:
    import gymnasium

    arena, policy = Arena(), CartPolicy.initial(0)
    for seed, trajectory in zip((5, 6), arena.play(policy, (5, 6), np.random.default_rng(0)), strict=True):
        environment: Any = gymnasium.make("CartPole-v1")  # pyright: ignore[reportUnknownMemberType]
        observation, _ = environment.reset(seed=seed)
        fell = False
        for step, action in enumerate(trajectory.actions.tolist()):
            assert np.array_equal(observation, trajectory.observations[step])
            observation, reward, fell, _, _ = environment.step(action)
            assert reward == trajectory.rewards[step]
        assert np.array_equal(observation, trajectory.observations[-1])
        assert fell == trajectory.terminated
        logits = policy.logits(trajectory.observations[:-1].astype(np.float64))
        expected = log_probabilities(logits, trajectory.actions.astype(np.float64))
        assert trajectory.log_probs == pytest.approx(expected, abs=1e-6)
        environment.close()
    arena.close()


def test_trajectory_goes_through_a_result() -> None:
    arena = Arena()
    (played,) = arena.play(CartPolicy.initial(0), (1,), np.random.default_rng(0))
    arena.close()
    found = Trajectory.from_result(played.to_result())
    assert found.total == played.total == len(played.actions)
    assert np.array_equal(found.observations, played.observations)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "log_probs"])
def test_trajectory_with_arrays_that_do_not_fit_is_refused(name: str) -> None:
    result: dict[str, Any] = {
        "observations": np.zeros((4, 4), np.float32),
        "actions": np.zeros(3, np.uint8),
        "rewards": np.ones(3, np.float32),
        "log_probs": np.zeros(3, np.float32),
        "terminated": True,
    }
    Trajectory.from_result(result)
    with pytest.raises(ValueError):
        Trajectory.from_result({**result, name: result[name][:-1]})


def test_learner_goes_on_from_its_saved_state() -> None:
    arena = Arena()
    batch = arena.play(CartPolicy.initial(0), range(8), np.random.default_rng(0))
    arena.close()
    one, other = Learner(0), Learner(1)
    one.update(batch)
    other.restore({name: array.copy() for name, array in one.state().items()})
    one.update(batch)
    other.update(batch)
    assert np.array_equal(one.policy.parameters, other.policy.parameters)
    assert np.array_equal(one.value.parameters, other.value.parameters)


def test_batch_with_nothing_to_learn_from_does_no_harm() -> None:
    """All episodes alike, one step long: the advantages have no spread."""
    episode = Trajectory(
        np.zeros((2, 4), np.float32), np.zeros(1, np.uint8), np.ones(1, np.float32), np.full(1, -0.7, np.float32), True
    )
    learner = Learner(0)
    learner.update([episode])
    assert np.isfinite(learner.policy.parameters).all()


@pytest.mark.parametrize("max_staleness", [0, 2, 4])
def test_policy_learns_from_stale_rollouts(max_staleness: int) -> None:
    """Given rollouts mostly as stale as allowed, when it trains 20 steps, then the return is five times higher."""
    learner, arena, rng = Learner(0), Arena(), np.random.default_rng(0)
    versions = [learner.policy.parameters.copy()]
    returns: list[float] = []
    for step in range(20):
        batch: list[Trajectory] = []
        for group in range(4):
            version = max(0, step - (max_staleness if group else 0))
            starts = [(step * 4 + group) * 2 + i // 4 for i in range(8)]
            batch += arena.play(CartPolicy(versions[version]), starts, rng)
        returns.append(learner.update(batch).mean_return)
        versions.append(learner.policy.parameters.copy())
    arena.close()
    assert max(returns) <= MAX_STEPS
    assert np.mean(returns[-3:]) >= 5 * returns[0]


def test_stale_samples_are_weighed_by_how_likely_they_are_now() -> None:
    arena = Arena()
    batch = arena.play(CartPolicy.initial(0), range(8), np.random.default_rng(0))
    arena.close()
    learner = Learner(0, LearnerConfig(max_weight=1.0))
    assert learner.update(batch).mean_weight == pytest.approx(1.0, abs=1e-3)
    assert learner.update(batch).mean_weight < 0.999
