"""PyTorch's side of the benchmark: the same models, training step and searches on a CPU, written for speed.

Every choice that could make it faster or slower (nn.LSTM or a loop, packed or padded input, …) is in CHOICES;
compare.py tries the options and keeps the fastest. Weights and gradients have imagernn's names and shapes outside.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_value_
from torch.nn.utils.rnn import PackedSequence

MAX_LENGTH = 20
CHOICES = {
    # nn.LSTM or nn.RNN on packed or padded input, or a loop over the steps of the packed rows
    'recurrence': ('nn packed', 'nn padded', 'loop', 'scripted loop'),
    'library': ('MKL', 'oneDNN'),                       # for the matrix products outside the recurrence
    'softmax': ('whole softmax', 'chunked softmax'),    # F.cross_entropy or F.linear_cross_entropy (MKL only)
    'update': ('foreach', 'for each'),                  # RMSprop and clipping: all parameters in one call, or not
    'topk': ('plain top-k', 'grouped top-k'),           # the best words of a beam: _plain_topk or _grouped_topk
    'rows': ('400 rows', '2000 rows', '100 rows'),      # in a matrix product of the search: beams of several images
}


class Peer(nn.Module):
    """The captioner: image and word encoders, nn.LSTM or nn.RNN, and the decoder, with imagernn's weights.

    weights: imagernn's model; generator: lstm or rnn; params: the flags of training. The RNN adds the image to the
    projected words at every step. nn.RNN cannot do that, so a layer before it projects the words, and nn.RNN gets the
    sum; its own input weights are the identity and are not trained.
    """

    def __init__(self, weights, generator, params):
        super().__init__()
        (D, E), V, H = weights['We'].shape, len(weights['Ws']), len(weights['Wd'])
        self.generator, self.params = generator, params
        self.image, self.word, self.decoder = nn.Linear(D, E), nn.Embedding(V, E), nn.Linear(H, V)
        if generator == 'lstm':
            self.recurrent = nn.LSTM(E, H)
            nn.init.zeros_(self.recurrent.bias_hh_l0.requires_grad_(False))    # imagernn's LSTM has one bias
        else:
            self.input, self.bhh = nn.Linear(E, H), nn.Parameter(torch.zeros(H))
            self.recurrent = nn.RNN(H, H, nonlinearity='relu', bias=False)
            nn.init.eye_(self.recurrent.weight_ih_l0.requires_grad_(False))
        decayed, others = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:    # as in imagernn, the LSTM's bias is a row of its weights and decays
                (decayed if parameter.ndim == 2 or name == 'recurrent.bias_ih_l0' else others).append(parameter)
        self.optimizer = torch.optim.RMSprop([{'params': decayed}, {'params': others}], lr=params['learning_rate'],
                                             alpha=params['decay_rate'], eps=params['smooth_eps'])
        self.load(weights)
        self.use({})

    def load(self, weights):
        """Copy imagernn's weights into this module."""
        arrays = to_torch(weights, self.generator)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)

    def use(self, way):
        """Use these options from now on: {choice: option}. A choice that is not named gets its first option."""
        self.way = {name: choices[0] for name, choices in CHOICES.items()} | way
        for group in self.optimizer.param_groups:
            group['foreach'] = self.way['update'] == 'foreach'

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost.

        PyTorch's RMSprop adds ε outside the root, imagernn's inside; the amount of work is the same.
        """
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        cost = self._loss(batch) / len(batch.image_rows)
        cost.backward()
        clip_grad_value_(self.parameters(), self.params['grad_clip'], foreach=self.way['update'] == 'foreach')
        self.optimizer.param_groups[0]['weight_decay'] = self.params['regc'] / len(batch.image_rows)
        self.optimizer.step()
        return cost.item()

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout and weight decay, in imagernn's names and shapes."""
        self.eval()
        self.zero_grad()
        cost = self._loss(batch) / len(batch.image_rows)
        cost.backward()
        grads = {name: parameter.grad.numpy() for name, parameter in self.named_parameters() if parameter.requires_grad}
        return cost.item(), from_torch(grads, self.generator)

    @torch.inference_mode()
    def perplexity(self, batches):
        """The perplexity per word of all batches together."""
        self.eval()
        total = sum(self._loss(batch).item() for batch in batches)
        return float(np.exp(total / sum(len(batch.sentences.targets) for batch in batches)))

    def _loss(self, batch):
        """The sum of -ln p over the words of a Batch, in nats."""
        features, image_rows, inputs, targets, sizes = (
            torch.from_numpy(array) for array in (*batch[:2], *batch.sentences[:3]))
        images = self._linear(features, self.image).index_select(0, image_rows)
        images, words = (self._dropout(X, 'drop_prob_encoder') for X in (images, self.word(inputs)))    # (N, E), (P, E)
        N = len(images)
        if self.generator == 'lstm':
            sizes = torch.cat([sizes.new_tensor([N]), sizes])
            H = self._recur(torch.cat([images, words]), sizes)[N:]               # (P, H), without the image's step
        else:
            sums = self._linear(words, self.input) + self.bhh + images.index_select(0, _columns(sizes))
            H = self._recur(sums, sizes)
        H = self._dropout(H, 'drop_prob_decoder')
        if self.way['softmax'] == 'whole softmax':
            return F.cross_entropy(self._linear(H, self.decoder), targets, reduction='sum')
        return F.linear_cross_entropy(H, self.decoder.weight, targets, linear_bias=self.decoder.bias, reduction='sum',
                                      options=nn.LinearCrossEntropyOptions())

    def _linear(self, x, layer):
        return self._product(x, layer.weight, layer.bias)

    def _product(self, x, weight, bias=None):
        if self.way['library'] == 'oneDNN':
            return F.linear(x.to_mkldnn(), weight, bias).to_dense()
        return F.linear(x, weight, bias)

    def _inputs_to_gates(self, X):
        """The contribution of inputs (n, E) to the pre-activations of the LSTM's gates, (n, 4H)."""
        return self._product(X, self.recurrent.weight_ih_l0, self.recurrent.bias_ih_l0)

    def _dropout(self, x, which):
        return F.dropout(x, self.params[which], self.training)

    def _recur(self, X, sizes):
        """The hidden states (P, H) for inputs X (P, E), both packed time-major with batch sizes `sizes` (T,)."""
        recurrence, weight = self.way['recurrence'], self.recurrent.weight_hh_l0
        if recurrence == 'nn packed':
            return self.recurrent(PackedSequence(X, sizes))[0].data
        if recurrence == 'nn padded':
            T, N = len(sizes), int(sizes[0])
            rows = (torch.arange(N) < sizes[:, None]).flatten().nonzero().squeeze(1)
            padded = X.new_zeros(T * N, X.shape[1]).index_copy(0, rows, X).view(T, N, -1)
            return self.recurrent(padded)[0].flatten(0, 1).index_select(0, rows)
        if self.generator == 'lstm':
            X = self._inputs_to_gates(X)
        return LOOPS[self.generator, recurrence](X.split(sizes.tolist()), weight.t())

    @torch.inference_mode()
    def greedy(self, features):
        """The caption of each row of features (n, D) by greedy search: n lists of word indices."""
        return self._search(features, 1, self._greedy)

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


TOPK = {'plain top-k': _plain_topk, 'grouped top-k': _grouped_topk}


def _captions(steps):
    """The words (n,) of every step, 0 for END and everything after it -> n lists of word indices."""
    return [[ix for ix in row if ix] for row in torch.stack(steps, 1).tolist()]


def _columns(sizes):
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


LOOPS = {('lstm', 'loop'): _lstm_loop, ('rnn', 'loop'): _rnn_loop,
         ('lstm', 'scripted loop'): torch.jit.script(_lstm_loop), ('rnn', 'scripted loop'): torch.jit.script(_rnn_loop)}


def to_torch(weights, generator):
    """imagernn's parameters -> {name in Peer: array}. Matrices are transposed; the gates' order becomes i, f, g, o."""
    arrays = {'image.weight': weights['We'].T, 'image.bias': weights['be'][0], 'word.weight': weights['Ws'],
              'decoder.weight': weights['Wd'].T, 'decoder.bias': weights['bd'][0]}
    if generator == 'lstm':
        WLSTM, E = _swap_o_and_g(weights['WLSTM']), weights['Ws'].shape[1]
        return {**arrays, 'recurrent.bias_ih_l0': WLSTM[0], 'recurrent.weight_ih_l0': WLSTM[1:1 + E].T,
                'recurrent.weight_hh_l0': WLSTM[1 + E:].T}
    return {**arrays, 'input.weight': weights['Wxh'].T, 'input.bias': weights['bxh'][0],
            'recurrent.weight_hh_l0': weights['Whh'].T, 'bhh': weights['bhh'][0]}


def from_torch(arrays, generator):
    """The inverse of to_torch: {name in Peer: array} -> imagernn's parameters."""
    weights = {'We': arrays['image.weight'].T, 'be': arrays['image.bias'][None], 'Ws': arrays['word.weight'],
               'Wd': arrays['decoder.weight'].T, 'bd': arrays['decoder.bias'][None]}
    if generator == 'lstm':
        rows = (arrays['recurrent.bias_ih_l0'][None], arrays['recurrent.weight_ih_l0'].T,
                arrays['recurrent.weight_hh_l0'].T)
        return {**weights, 'WLSTM': _swap_o_and_g(np.concatenate(rows))}
    return {**weights, 'Wxh': arrays['input.weight'].T, 'bxh': arrays['input.bias'][None],
            'Whh': arrays['recurrent.weight_hh_l0'].T, 'bhh': arrays['bhh'][None]}


def _swap_o_and_g(WLSTM):
    i, f, third, fourth = np.split(WLSTM, 4, axis=1)
    return np.concatenate([i, f, fourth, third], axis=1)
