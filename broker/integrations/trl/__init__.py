"""TRL's `AsyncGRPOTrainer` on rollouts that workers on any host generate; see docs/integrations/trl.md.

    worker = BrokerRolloutWorker(url, "math-7b", dataset)
    trainer = AsyncGRPOTrainer(
        model, args=args, train_dataset=dataset, rollout_worker=worker, callbacks=[worker.callback],
        weight_transfer=BrokerWeightTransfer(worker, "weights"),
    )

Workers submit what `result` makes. TRL is imported when training begins; workers do not need it.
"""

from broker.integrations.trl.rollout_worker import BrokerRolloutWorker
from broker.integrations.trl.samples import result
from broker.integrations.trl.weight_transfer import BrokerWeightTransfer

__all__ = ["BrokerRolloutWorker", "BrokerWeightTransfer", "result"]
