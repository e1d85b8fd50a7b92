"""PyTorch's side of the benchmark: the same models, training step and searches on a CPU, written for speed.

Every choice that could make it faster or slower (nn.LSTM or a loop, packed or padded input, …) is in CHOICES;
compare.py tries the options and keeps the fastest. Weights and gradients have imagernn's names and shapes outside.
"""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from machine import Stopwatch
from torch import nn
from torch.nn.utils import clip_grad_value_
from torch.nn.utils.rnn import PackedSequence

from imagernn.captioning.self_critical import weighted_batch, weights_of

MAX_LENGTH = 20
CHOICES = {
    # nn.LSTM or nn.RNN on packed or padded input, or a loop over the steps of the packed rows
    'recurrence': ('nn packed', 'nn padded', 'loop', 'scripted loop'),
    'attention': ('LSTM cell', 'loop', 'scripted loop'),    # the recurrence of the attention generator
    'library': ('MKL', 'oneDNN'),                       # for the matrix products outside the recurrence
    'softmax': ('whole softmax', 'chunked softmax'),    # F.cross_entropy or F.linear_cross_entropy (MKL only)
    'update': ('foreach', 'for each'),                  # RMSprop and clipping: all parameters in one call, or not
    'adam': ('foreach', 'for each', 'fused'),           # the same of Adam, which has a fused kernel, too
    'topk': ('plain top-k', 'grouped top-k'),           # the best words of a beam: _plain_topk or _grouped_topk
    'rows': ('400 rows', '2000 rows', '100 rows'),      # in a matrix product of the search: beams of several images
    'draw': ('multinomial', 'cumulative sums'),         # of a word: torch.multinomial or _draw_from_sums
    # self-critical training: whether captions that have ended are drawn on with the others, as usual; and whether the
    # gradients are those of the drawing itself, or captions are drawn without and forwarded again, without padding
    'ended': ('ended kept', 'ended dropped'),
    'gradients': ('one pass', 'second pass, nn packed', 'second pass, loop', 'second pass, scripted loop'),
    'reward': ('Python reward', 'references kept'),     # whether python_reward.py keeps the n-grams of references
}


class Peer(nn.Module):
    """The captioner: image and word encoders, nn.LSTM or nn.RNN, and the decoder, with imagernn's weights.

    weights: imagernn's model; generator: lstm, rnn or attention; params: the flags of training. The RNN adds the image
    to the projected words at every step. nn.RNN cannot do that, so a layer before it projects the words, and nn.RNN
    gets the sum; its own input weights are the identity and are not trained. What the LSTM gets at every step beside
    the word, the image or the context of the attention, is the second half of its input.
    """

    def __init__(self, weights, generator, params):
        super().__init__()
        (D, E), V, H = weights['We'].shape, len(weights['Ws']), len(weights['Wd'])
        self.options, self.generator, self.params = CHOICES, generator, params
        self.image, self.word, self.decoder = nn.Linear(D, E), nn.Embedding(V, E), nn.Linear(H, V)
        if generator == 'attention':
            K = weights['Wkey'].shape[1]
            self.region, self.key = nn.Linear(len(weights['Wregion']), E), nn.Linear(E, K)
            self.query, self.score = nn.Linear(H, K, bias=False), nn.Linear(K, 1, bias=False)
        self.every = 'Wimage' in weights    # whether the LSTM gets the image at every step
        if generator != 'rnn':
            self.recurrent = nn.LSTM(E * (1 + (self.every or generator == 'attention')), H)
            nn.init.zeros_(self.recurrent.bias_hh_l0.requires_grad_(False))    # imagernn's LSTM has one bias
        else:
            self.input, self.bhh = nn.Linear(E, H), nn.Parameter(torch.zeros(H))
            self.recurrent = nn.RNN(H, H, nonlinearity='relu', bias=False)
            nn.init.eye_(self.recurrent.weight_ih_l0.requires_grad_(False))
        decayed, others = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:    # as in imagernn, the LSTM's bias is a row of its weights and decays
                (decayed if parameter.ndim == 2 or name == 'recurrent.bias_ih_l0' else others).append(parameter)
        groups, rate, eps = [{'params': decayed}, {'params': others}], params['learning_rate'], params['smooth_eps']
        if params['solver'] == 'adam':
            self.optimizer = torch.optim.Adam(groups, rate, (params['adam_beta1'], params['decay_rate']), eps)
        else:
            self.optimizer = torch.optim.RMSprop(groups, rate, params['decay_rate'], eps)
        self.load(weights)
        self.use({})

    def load(self, weights):
        """Copy imagernn's weights into this module."""
        arrays = to_torch(weights, self.generator)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)

    def use(self, way):
        """Use these options from now on: {choice: option}. A choice that is not named gets its first option."""
        self.way = {name: choices[0] for name, choices in CHOICES.items()} | way
        self._update_by = self.way['adam' if self.params['solver'] == 'adam' else 'update']
        for group in self.optimizer.param_groups:
            group['foreach'], group['fused'] = self._update_by == 'foreach', self._update_by == 'fused'

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost.

        PyTorch's RMSprop adds ε outside the root, imagernn's inside; the amount of work is the same.
        """
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        cost = self._loss(batch) / len(batch.image_rows)
        cost.backward()
        self._update(len(batch.image_rows))
        return cost.item()

    def _update(self, N):
        """Clip the gradients of N sentences and make the update."""
        clip_grad_value_(self.parameters(), self.params['grad_clip'], foreach=self._update_by != 'for each')
        self.optimizer.param_groups[0]['weight_decay'] = self.params['regc'] / N
        self.optimizer.step()

    def self_critical_step(self, images, features, num_samples, reward):
        """Make one update on captions that the model draws. Returns a Stopwatch's seconds, and the captions' lengths.

        images (M,): their numbers, for the reward; features (M, D). The weights of the words, small arrays, are
        computed by the same function as ours, and the packing too.
        """
        self.eval()
        self.optimizer.zero_grad(set_to_none=True)
        watch, in_one_pass = Stopwatch(), self.way['gradients'] == 'one pass'
        with contextlib.nullcontext() if in_one_pass else torch.inference_mode():
            words, lengths, logprobs, places = self._draw(features, num_samples)
        watch.lap('drawing')
        rewards = reward(np.repeat(images, num_samples), words, lengths)
        watch.lap('reward')
        weights = weights_of(rewards, num_samples, lengths)
        if in_one_pass:
            loss = -(logprobs @ torch.from_numpy(weights[places]).to(logprobs.dtype))
        else:
            self.way['recurrence'] = self.way['gradients'].removeprefix('second pass, ')
            loss = self._loss(*weighted_batch(features, num_samples, words, lengths, weights))
        loss.backward()
        self._update(len(lengths))
        watch.lap('gradients and update')
        return watch.seconds, lengths

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout and weight decay, in imagernn's names and shapes."""
        self.eval()
        self.zero_grad()
        cost = self._loss(batch) / len(batch.image_rows)
        cost.backward()
        return cost.item(), self._grads()

    def weighted_grads(self, batch, weights):
        """The gradients of -sum(weights · ln p), as in cost_and_grads. weights (P,): of the words of the batch."""
        self.eval()
        self.zero_grad()
        self._loss(batch, weights).backward()
        return self._grads()

    def _grads(self):
        return from_torch({name: parameter.grad.numpy() for name, parameter in self.named_parameters()
                           if parameter.requires_grad}, self.generator)

    @torch.inference_mode()
    def perplexity(self, batches):
        """The perplexity per word of all batches together."""
        self.eval()
        total = sum(self._loss(batch).item() for batch in batches)
        return float(np.exp(total / sum(len(batch.sentences.targets) for batch in batches)))

    def _loss(self, batch, weights=None):
        """The sum of -ln p over the words of a Batch, in nats; with weights (P,), each times its weight."""
        features, image_rows, inputs, targets, sizes = (
            torch.from_numpy(array) for array in (*batch[:2], *batch.sentences[:3]))
        D, words = self.image.in_features, self._dropout(self.word(inputs), 'drop_prob_encoder')    # (P, E)
        images = self._linear(features[:, :D], self.image)                      # (M, E)
        if self.training:    # dropout is drawn for each sentence
            images = self._dropout(images.index_select(0, image_rows), 'drop_prob_encoder')         # (N, E)
            image_rows = torch.arange(len(images))
        if self.generator == 'rnn':
            rows = image_rows.index_select(0, columns(sizes))
            H = self._recur(self._linear(words, self.input) + self.bhh + images.index_select(0, rows), sizes)
        else:
            N = len(image_rows)
            X, sizes = torch.cat([images.index_select(0, image_rows), words]), torch.cat([sizes.new_tensor([N]), sizes])
            if self.generator == 'attention':
                H = self._attend(X, sizes, self._regions(features[:, D:], batch.image_rows))
            else:
                H = self._recur(X, sizes, images, image_rows)
            H = H[N:]                                                           # (P, H), without the image's step
        H = self._dropout(H, 'drop_prob_decoder')
        if weights is not None:
            y = self._linear(H, self.decoder)
            return F.cross_entropy(y, targets, reduction='none') @ torch.from_numpy(weights).to(y.dtype)
        if self.way['softmax'] == 'whole softmax':
            return F.cross_entropy(self._linear(H, self.decoder), targets, reduction='sum')
        return F.linear_cross_entropy(H, self.decoder.weight, targets, linear_bias=self.decoder.bias, reduction='sum',
                                      options=nn.LinearCrossEntropyOptions())

    def _regions(self, features, image_rows):
        """The encoded regions of each sentence (N, R, E); dropout is the same for all regions of a sentence."""
        values = self._linear(features.reshape(-1, self.region.in_features), self.region)
        values = values.view(len(features), -1, values.shape[1])[torch.from_numpy(image_rows)]
        if self.training:
            values = values * self._dropout(values.new_ones(len(values), 1, values.shape[2]), 'drop_prob_encoder')
        return values

    def _linear(self, x, layer):
        return self._product(x, layer.weight, layer.bias)

    def _product(self, x, weight, bias=None):
        if self.way['library'] == 'oneDNN':
            return F.linear(x.to_mkldnn(), weight, bias).to_dense()
        return F.linear(x, weight, bias)

    def _inputs_to_gates(self, X):
        """The contribution of inputs (n, E) to the pre-activations of the LSTM's gates, (n, 4H)."""
        return self._product(X, self.recurrent.weight_ih_l0[:, :X.shape[1]], self.recurrent.bias_ih_l0)

    def _images_to_gates(self, images):
        """The contribution of images (n, E), at every step, to the pre-activations of the gates, (n, 4H)."""
        return self._product(images, self.recurrent.weight_ih_l0[:, images.shape[1]:])

    def _dropout(self, x, which):
        return F.dropout(x, self.params[which], self.training)

    def _recur(self, X, sizes, images=None, image_rows=None):
        """The hidden states (P, H) for inputs X (P, E), both packed time-major with batch sizes `sizes` (T,).

        images (M, E) and the row of each sentence's (N,): for an LSTM that gets the image at every step.
        """
        recurrence, weight = self.way['recurrence'], self.recurrent.weight_hh_l0
        rows = image_rows.index_select(0, columns(sizes)) if self.every else None    # (P,)
        if self.every and recurrence.startswith('nn'):
            X = torch.cat([X, images.index_select(0, rows)], 1)                 # (P, 2E)
        if recurrence == 'nn packed':
            return self.recurrent(PackedSequence(X, sizes))[0].data
        if recurrence == 'nn padded':
            T, N = len(sizes), int(sizes[0])
            places = (torch.arange(N) < sizes[:, None]).flatten().nonzero().squeeze(1)
            padded = X.new_zeros(T * N, X.shape[1]).index_copy(0, places, X).view(T, N, -1)
            return self.recurrent(padded)[0].flatten(0, 1).index_select(0, places)
        if self.generator == 'lstm':
            X = self._inputs_to_gates(X)
        if self.every:
            X = X + self._images_to_gates(images).index_select(0, rows)
        return LOOPS[self.generator, recurrence](X.split(sizes.tolist()), weight.t())

    def _attend(self, X, sizes, values):
        """The hidden states (P, H) of the LSTM with attention, for inputs X (P, E) packed as for _recur.

        values (N, R, E): the vectors at which each sentence looks.
        """
        E, keys = X.shape[1], self._linear(values, self.key)                    # keys (N, R, K)
        weights = self.recurrent.weight_hh_l0, self.recurrent.weight_ih_l0, self.query.weight, self.score.weight
        if self.way['attention'] == 'LSTM cell':
            return _attention_cells(X.split(sizes.tolist()), keys, values, *weights, self.recurrent.bias_ih_l0)
        hidden, inputs, query, score = weights
        return LOOPS['attention', self.way['attention']](self._inputs_to_gates(X).split(sizes.tolist()), keys, values,
                                                         hidden.t(), inputs[:, E:].t(), query.t(), score)

    @torch.inference_mode()
    def greedy(self, features):
        """The caption of each row of features (n, D) by greedy search: n lists of word indices."""
        return self._search(features, 1, self._greedy)

    @torch.inference_mode()
    def sample(self, features, num_samples):
        """num_samples captions of each row of features (M, D): their words with END (K,), their lengths."""
        self.eval()
        return self._draw(features, num_samples)[:2]

    def drawn_grads(self, features, num_samples):
        """The gradients of -sum(ln p) of drawn captions, computed while they are drawn. Returns words, lengths, grads.
        """
        self.eval()
        self.zero_grad()
        words, lengths, logprobs, _ = self._draw(features, num_samples)
        (-logprobs.sum()).backward()
        return words, lengths, self._grads()

    def _draw(self, features, num_samples):
        """num_samples captions of each row of features (M, D), drawn word by word.

        Returns words (K,), with END where a caption came to its end, one caption after another, and the lengths
        (M · num_samples,); then, step by step, ln p of the words (K,) and their places in words (K,).
        """
        draw, n = DRAWS[self.way['draw']], len(features) * num_samples
        words_in = self._inputs_to_gates(self.word.weight)                      # (V, 4H), once for all words
        images = self._linear(torch.from_numpy(features), self.image)
        gates = self._inputs_to_gates(images)
        every = self._images_to_gates(images) if self.every else gates.new_zeros(len(images), 1)
        zeros = gates.new_zeros(len(images), self.recurrent.hidden_size)
        *state, every = (rows.repeat_interleave(num_samples, 0)
                         for rows in (*self._step(gates + every, zeros, zeros), every))
        drop = self.way['ended'] == 'ended dropped'
        words, live = torch.zeros(n, dtype=torch.long), torch.arange(n)         # live: the captions that have not ended
        steps, lives, logprobs = [], [], []
        for _ in range(MAX_LENGTH):
            state = self._step(words_in.index_select(0, words) + every, *state)
            y = self._linear(state[0], self.decoder)                            # (n, V), or (R, V) for R live captions
            words = draw(y.detach().softmax(1))
            own = words if drop else words[live]                                # (R,)
            if torch.is_grad_enabled():
                found = -F.cross_entropy(y, words, reduction='none')
                logprobs.append(found if drop else found.index_select(0, live))
            steps.append(torch.zeros(n, dtype=torch.long).index_copy(0, live, own))
            lives.append(live.numpy())
            going = own.nonzero().squeeze(1)
            if not len(going):
                break
            if drop and len(going) < len(live):
                words = words[going]
                *state, every = (rows.index_select(0, going) for rows in (*state, every))
            live = live[going]
        table = torch.stack(steps, 1).numpy()                                   # (n, T)
        lengths = np.minimum((table > 0).sum(axis=1) + 1, table.shape[1])
        starts = np.cumsum(lengths) - lengths
        places = np.concatenate([starts[some] + step for step, some in enumerate(lives)])
        return (table[np.arange(table.shape[1]) < lengths[:, None]], lengths,
                torch.cat(logprobs) if logprobs else None, places)

    @torch.inference_mode()
    def beam(self, features, beam_size):
        """The best caption of each row of features (n, D) by beam search: n lists of word indices."""
        return self._search(features, beam_size, self._beam)

    def _search(self, features, beam_size, search):
        words_in = self._inputs_to_gates(self.word.weight)                      # (V, 4H), once for all words
        step = max(1, int(self.way['rows'].split()[0]) // beam_size)
        captions = []
        for some in torch.from_numpy(features).split(step):
            gates = self._inputs_to_gates(self._linear(some, self.image))
            zeros = gates.new_zeros(len(some), self.recurrent.hidden_size)
            captions += search(words_in, self._step(gates, zeros, zeros), beam_size)
        return captions

    def _step(self, sums, h, c):
        """One step of the LSTM with nn.LSTM's equations. sums: what the inputs add to the gates, (n, 4H)."""
        i, f, g, o = (sums + self._product(h, self.recurrent.weight_hh_l0)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def _greedy(self, words_in, state, _):
        n = len(state[0])
        live, words, score = torch.arange(n), torch.zeros(n, dtype=torch.long), torch.zeros(n)
        steps = []
        for _ in range(MAX_LENGTH):
            state = self._step(words_in[words], *state)
            best, words = self._linear(state[0], self.decoder).log_softmax(1).max(1)    # (R,) for R live images
            score[live] += best                                                 # summed as ours is
            steps.append(torch.zeros(n, dtype=torch.long).index_copy(0, live, words))
            going = words.nonzero().squeeze(1)
            if not len(going):
                break
            if len(going) < len(live):
                live, words, state = live[going], words[going], tuple(rows[going] for rows in state)
        return _captions(steps)

    def _beam(self, words_in, state, beam_size):
        """Beam search in which the live beams of all images are the rows of the matrix products.

        Finished beams keep their place and score. A live beam that is no better than a finished one of its image is
        dropped, because its score can only fall.
        """
        topk = TOPK[self.way['topk']]
        n = len(state[0])
        score, finished = torch.zeros(n, 1), torch.zeros(n, 1, dtype=torch.bool)    # (n images, b beams)
        live, words, history = torch.arange(n), torch.zeros(n, dtype=torch.long), []
        for _ in range(MAX_LENGTH):
            state = self._step(words_in[words], *state)                         # for R live beams
            logprobs = self._linear(state[0], self.decoder).log_softmax(1)      # (R, V)
            best, best_words = topk(logprobs, beam_size)                        # (R, beam_size)
            best += score.flatten()[live, None]

            b = score.shape[1]
            offers = torch.full((n * b, beam_size), -torch.inf).index_copy(0, live, best)
            offers[:, 0] = torch.where(finished.flatten(), score.flatten(), offers[:, 0])
            offered_words = torch.zeros(n * b, beam_size, dtype=torch.long).index_copy(0, live, best_words)
            score, at = offers.view(n, -1).topk(beam_size)                      # (n, beam_size), best first
            parent = at // beam_size + b * torch.arange(n)[:, None]             # rows of the previous beams
            had_finished = finished.flatten()[parent]
            word = offered_words.view(n, -1).gather(1, at)
            finished = had_finished | (word == 0)
            history.append((parent.flatten(), word.masked_fill(had_finished, 0).flatten()))

            row_of = torch.zeros(n * b, dtype=torch.long).index_copy(0, live, torch.arange(len(live)))
            going = ~finished & (score > score.masked_fill(~finished, -torch.inf).amax(1, keepdim=True))
            words, rows = word[going], row_of[parent[going]]
            if not len(words):
                break
            live, state = going.flatten().nonzero().squeeze(1), tuple(array[rows] for array in state)
        beams, steps = beam_size * torch.arange(n), []                          # the best beam of each image
        for parent, word in reversed(history):
            steps.append(word[beams])
            beams = parent[beams]
        return _captions(steps[::-1])


def _plain_topk(y, k):
    return y.topk(k, sorted=False)


def _grouped_topk(y, k, width=32):
    """Top-k of each row of y (R, V) by groups of width columns.

    The k largest values must be in the k groups with the largest maxima, so only these groups are searched.
    """
    R, V = y.shape
    if V < k * width:
        return _plain_topk(y, k)
    whole = V // width * width                                                  # the remaining columns are all searched
    groups = y[:, :whole].view(R, -1, width)
    best = groups.amax(2).topk(k, sorted=False).indices                         # (R, k)
    kept = torch.cat([groups.gather(1, best[:, :, None].expand(R, k, width)).flatten(1), y[:, whole:]], 1)
    values, at = kept.topk(k, sorted=False)
    inside = at < k * width
    group = best.gather(1, torch.where(inside, at // width, 0))
    return values, torch.where(inside, group * width + at % width, at - k * width + whole)


def _draw_from_sums(p):
    """A word from each row of probabilities p (R, V): the first whose cumulative sum exceeds a random number."""
    sums = p.cumsum(1)
    return torch.searchsorted(sums, torch.rand(len(p), 1) * sums[:, -1:], right=True).squeeze(1)


DRAWS = {'multinomial': lambda p: torch.multinomial(p, 1).squeeze(1), 'cumulative sums': _draw_from_sums}
TOPK = {'plain top-k': _plain_topk, 'grouped top-k': _grouped_topk}


def _captions(steps):
    """The words (n,) of every step, 0 for END and everything after it -> n lists of word indices."""
    return [[ix for ix in row if ix] for row in torch.stack(steps, 1).tolist()]


def columns(sizes):
    """The index of the sentence that each packed row belongs to: (P,)."""
    N = int(sizes[0])
    return torch.arange(N).expand(len(sizes), N)[torch.arange(N) < sizes[:, None]]


def _lstm_loop(sums: list[torch.Tensor], W: torch.Tensor) -> torch.Tensor:
    """The LSTM step by step: sums, a list with each step's contribution of the inputs (n, 4H); W (H, 4H) -> (P, H)."""
    h = c = torch.zeros(len(sums[0]), W.shape[0])
    hidden: list[torch.Tensor] = []
    for step in sums:
        n = len(step)
        gates = torch.addmm(step, h[:n], W) if len(hidden) else step
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c[:n] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.cat(hidden)


def _rnn_loop(sums: list[torch.Tensor], W: torch.Tensor) -> torch.Tensor:
    """The RNN step by step: sums, a list with each step's contribution of word and image (n, H); W (H, H) -> (P, H)."""
    h = sums[0].relu()
    hidden = [h]
    for step in sums[1:]:
        h = torch.addmm(step, h[:len(step)], W).relu()
        hidden.append(h)
    return torch.cat(hidden)


def _attention_cells(inputs, keys, values, hidden, weight, query, score, bias):
    """The LSTM with attention as it is usually written: each step's word and context go into an LSTM cell.

    inputs: of each step, (n, E); keys (N, R, K); values (N, R, E); then the weights, as nn.Linear has them -> (P, H).
    """
    h = c = torch.zeros(len(keys), hidden.shape[1])
    found, none = [], torch.zeros_like(bias)
    for x in inputs:
        n = len(x)
        h, c = h[:n], c[:n]
        scores = F.linear(torch.tanh(keys[:n] + F.linear(h, query)[:, None]), score)            # (n, R, 1)
        context = (scores.softmax(1) * values[:n]).sum(1)                                       # (n, E)
        h, c = torch.lstm_cell(torch.cat([x, context], 1), (h, c), weight, hidden, bias, none)
        found.append(h)
    return torch.cat(found)


def _attention_loop(sums: list[torch.Tensor], keys: torch.Tensor, values: torch.Tensor, W: torch.Tensor,
                    Wcontext: torch.Tensor, Wquery: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """_lstm_loop with attention: keys (N, R, K), values (N, R, E), W (H, 4H), Wcontext (E, 4H), Wquery (H, K), score
    (1, K) -> (P, H). Slices are made only where sentences end, because each costs a whole array backward.
    """
    h = c = torch.zeros(len(keys), W.shape[0])
    hidden: list[torch.Tensor] = []
    for step in sums:
        n = len(step)
        if n < len(keys):
            h, c, keys, values = h[:n], c[:n], keys[:n], values[:n]
        scores = F.linear(torch.tanh(keys + torch.mm(h, Wquery).unsqueeze(1)), score).squeeze(2)   # (n, R)
        context = torch.bmm(scores.softmax(1).unsqueeze(1), values).squeeze(1)                     # (n, E)
        gates = torch.addmm(torch.addmm(step, h, W) if len(hidden) else step, context, Wcontext)
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.cat(hidden)


LOOPS = {('attention', 'loop'): _attention_loop, ('attention', 'scripted loop'): torch.jit.script(_attention_loop),
         ('lstm', 'loop'): _lstm_loop, ('rnn', 'loop'): _rnn_loop,
         ('lstm', 'scripted loop'): torch.jit.script(_lstm_loop), ('rnn', 'scripted loop'): torch.jit.script(_rnn_loop)}


def to_torch(weights, generator):
    """imagernn's parameters -> {name in Peer: array}. Matrices are transposed; the gates' order becomes i, f, g, o."""
    arrays = {'image.weight': weights['We'].T, 'image.bias': weights['be'][0], 'word.weight': weights['Ws'],
              'decoder.weight': weights['Wd'].T, 'decoder.bias': weights['bd'][0]}
    if generator == 'rnn':
        return {**arrays, 'input.weight': weights['Wxh'].T, 'input.bias': weights['bxh'][0],
                'recurrent.weight_hh_l0': weights['Whh'].T, 'bhh': weights['bhh'][0]}
    if generator == 'attention':
        arrays |= {name: weights[ours].T for name, ours in ATTENTION.items()}
        arrays |= {'region.bias': weights['bregion'][0], 'key.bias': weights['bkey'][0]}
    WLSTM, E = _swap_o_and_g(weights['WLSTM']), weights['Ws'].shape[1]
    inputs = [WLSTM[1:1 + E], *(_swap_o_and_g(weights[name]) for name in ('Wimage', 'Wcontext') if name in weights)]
    return {**arrays, 'recurrent.bias_ih_l0': WLSTM[0], 'recurrent.weight_ih_l0': np.concatenate(inputs).T,
            'recurrent.weight_hh_l0': WLSTM[1 + E:].T}


def from_torch(arrays, generator):
    """The inverse of to_torch: {name in Peer: array} -> imagernn's parameters."""
    weights = {'We': arrays['image.weight'].T, 'be': arrays['image.bias'][None], 'Ws': arrays['word.weight'],
               'Wd': arrays['decoder.weight'].T, 'bd': arrays['decoder.bias'][None]}
    if generator == 'rnn':
        return {**weights, 'Wxh': arrays['input.weight'].T, 'bxh': arrays['input.bias'][None],
                'Whh': arrays['recurrent.weight_hh_l0'].T, 'bhh': arrays['bhh'][None]}
    if generator == 'attention':
        weights |= {ours: arrays[name].T for name, ours in ATTENTION.items()}
        weights |= {'bregion': arrays['region.bias'][None], 'bkey': arrays['key.bias'][None]}
    words, others = np.split(arrays['recurrent.weight_ih_l0'].T, [weights['Ws'].shape[1]])
    if len(others):
        weights['Wcontext' if generator == 'attention' else 'Wimage'] = _swap_o_and_g(others)
    rows = arrays['recurrent.bias_ih_l0'][None], words, arrays['recurrent.weight_hh_l0'].T
    return {**weights, 'WLSTM': _swap_o_and_g(np.concatenate(rows))}


ATTENTION = {'region.weight': 'Wregion', 'key.weight': 'Wkey', 'query.weight': 'Wquery', 'score.weight': 'Wscore'}


def _swap_o_and_g(WLSTM):
    i, f, third, fourth = np.split(WLSTM, 4, axis=1)
    return np.concatenate([i, f, fourth, third], axis=1)
