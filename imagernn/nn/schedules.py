"""How the learning rate changes over the epochs of a run: functions of the epoch, a float that starts at 0."""

import math


def halving(learning_rate, start, every):
    """Constant up to the epoch start; then halved, smoothly, in each period of every epochs. start < 0: constant."""

    def at(epoch):
        late = max(0., epoch - start) if start >= 0 else 0.
        return learning_rate * .5 ** (late / every)

    return at


def cosine(learning_rate, max_epochs):
    """From learning_rate at epoch 0 along half a cosine to 0 at max_epochs. (Loshchilov & Hutter 2017, no restarts.)"""

    def at(epoch):
        return learning_rate * .5 * (1 + math.cos(math.pi * min(1., epoch / max_epochs)))

    return at


def warmed_up(schedule, epochs):
    """The schedule times a factor that rises linearly from 0 at epoch 0 to 1 at epochs. (Goyal et al. 2017)

    With epochs = 0, it is the schedule itself.
    """
    if not epochs:
        return schedule

    def at(epoch):
        return schedule(epoch) * min(1., epoch / epochs)

    return at


# ---- by the flags: functions of the epoch that a step ends, as Run asks for it

def _halving_by_flags(params, iters_per_epoch):
    return halving(params['learning_rate'], params['learning_rate_decay_start'], params['learning_rate_decay_every'])


def _cosine_by_flags(params, iters_per_epoch):
    falling = cosine(params['learning_rate'], params['max_epochs'])
    # of the epoch at which the step begins: at the end of the last step, the rate would be 0
    return lambda epoch: falling(epoch - 1 / iters_per_epoch)


BY_FLAGS = {'halving': _halving_by_flags, 'cosine': _cosine_by_flags}


def schedule_of(params, iters_per_epoch):
    """The schedule that the flags choose: a function of the epoch at which a step ends.

    params: learning_rate, learning_rate_schedule, warmup and max_epochs; for halving, learning_rate_decay_start and
    learning_rate_decay_every. No step has the learning rate 0. ValueError lists the known schedules.
    """
    name = params['learning_rate_schedule']
    if name not in BY_FLAGS:
        raise ValueError(f'--learning_rate_schedule {name}: not known; choose one of {", ".join(BY_FLAGS)}')
    return warmed_up(BY_FLAGS[name](params, iters_per_epoch), params['warmup'])
