"""PyTorch's side of the ranking benchmark: both rankers on a CPU, with nn.GRU and autograd, written for speed.

As in torch_peer.py, every choice that could make it faster or slower is in CHOICES. Weights and gradients have
imagernn's names and shapes outside.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch_peer import columns

from imagernn.nn.packing import last_rows, reversing

CHOICES = {
    # nn.GRU on packed input, or a loop over the steps of the packed rows, each direction for itself
    'recurrence': ('nn packed', 'loop', 'scripted loop'),
    # the best region of each word: of padded words under a mask, or of packed words, by amax or by max, whose gradient
    # goes to one region; "inside" says what lies next to each other in memory
    'scores': ('padded', 'amax, words inside', 'max, words inside', 'amax, regions inside', 'max, regions inside'),
    'library': ('MKL', 'oneDNN'),                 # for the matrix products outside the recurrence
    'adam': ('foreach', 'for each', 'fused'),     # all parameters in one call, or not, or by the fused kernel
}


class RankingPeer(nn.Module):
    """A ranker with a GRU, cosine, mean over the words and InfoNCE. weights: imagernn's model; params: its flags."""

    def __init__(self, weights, params):
        super().__init__()
        (D, H), (V, E) = weights['We'].shape, weights['Ws'].shape
        self.options, self.params, self.regions = CHOICES, params, params['ranker'] == 'regions'
        self.image, self.word = nn.Linear(D, H), nn.Embedding(V, E)
        self.gru = nn.GRU(E, H, bidirectional=self.regions)
        if self.regions:
            self.out = nn.Linear(H, H)
        decayed, others = [], []
        for name, parameter in self.named_parameters():    # as in imagernn, the GRU's biases are rows of its weights
            (decayed if parameter.ndim == 2 or name.startswith('gru') else others).append(parameter)
        self.optimizer = torch.optim.Adam([{'params': decayed}, {'params': others}], params['learning_rate'],
                                          (params['adam_beta1'], params['decay_rate']), params['smooth_eps'])
        self.load(weights)
        self.use({})

    def load(self, weights):
        """Copy imagernn's weights into this module."""
        self.load_state_dict({name: torch.tensor(array) for name, array in to_torch(weights).items()})

    def use(self, way):
        """Use these options from now on: {choice: option}. A choice that is not named gets its first option."""
        self.way = {name: choices[0] for name, choices in CHOICES.items()} | way
        for group in self.optimizer.param_groups:
            group['foreach'], group['fused'] = self.way['adam'] == 'foreach', self.way['adam'] == 'fused'

    def train_step(self, batch):
        """Make one update, with dropout. Returns the cost."""
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        cost = self._loss(batch)
        cost.backward()
        clip_grad_norm_(self.parameters(), self.params['grad_clip'], foreach=self.way['adam'] != 'for each')
        self.optimizer.param_groups[0]['weight_decay'] = self.params['regc'] / len(batch.features)
        self.optimizer.step()
        return cost.item()

    def cost_and_grads(self, batch):
        """The cost of a batch and its gradients, without dropout and weight decay, in imagernn's names and shapes."""
        self.eval()
        self.zero_grad()
        cost = self._loss(batch)
        cost.backward()
        return cost.item(), from_torch({name: parameter.grad.numpy() for name, parameter in self.named_parameters()})

    def _loss(self, batch):
        features, sizes = torch.from_numpy(batch.features), torch.from_numpy(batch.sentences.batch_sizes)
        drop = F.dropout(features.new_ones(len(features), 1, features.shape[2]), self.params['drop_prob_image'],
                         self.training)    # the same features in all regions of an image
        V = F.normalize(self._linear(features * drop if self.training else features, self.image), dim=2)    # (N, R, E)
        words = F.dropout(self.word(torch.from_numpy(batch.sentences.targets)), self.params['drop_prob_word'],
                          self.training)                                        # (P, F)
        if self.regions:
            vectors = F.normalize(self._linear(self._both_ways(words, sizes), self.out), dim=1)             # (P, E)
            scores = self._scores(V, vectors, sizes)
        else:
            scores = self._product(V[:, 0], F.normalize(self._last(words, sizes), dim=1))
        logits, right = scores / self.params['temperature'], torch.arange(len(scores))
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.t(), right)) / 2

    def _linear(self, x, layer):
        return self._product(x, layer.weight, layer.bias)

    def _product(self, x, weight, bias=None):
        """x (…, D) times the transpose of weight (M, D)."""
        if self.way['library'] == 'oneDNN':
            flat = F.linear(x.reshape(-1, x.shape[-1]).to_mkldnn(), weight.contiguous(), bias).to_dense()
            return flat.view(*x.shape[:-1], len(weight))
        return F.linear(x, weight, bias)

    def _last(self, X, sizes):
        """The last state of each sentence (N, H), for packed words X (P, E)."""
        if self.way['recurrence'] == 'nn packed':
            return self.gru(PackedSequence(X, sizes))[1][0]
        return self._loop(X, sizes, '').index_select(0, torch.from_numpy(last_rows(sizes.numpy())))

    def _both_ways(self, X, sizes):
        """The sum of the states of both directions (P, H), for packed words X (P, E)."""
        if self.way['recurrence'] == 'nn packed':
            return torch.add(*self.gru(PackedSequence(X, sizes))[0].data.chunk(2, 1))
        turned = torch.from_numpy(reversing(sizes.numpy()))
        backward = self._loop(X.index_select(0, turned), sizes, '_reverse')
        return self._loop(X, sizes, '') + backward.index_select(0, turned)

    def _loop(self, X, sizes, direction):
        W, U, b, c = (getattr(self.gru, f'{name}_l0{direction}') for name in
                      ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'))
        return LOOPS[self.way['recurrence']](self._product(X, W, b).split(sizes.tolist()), U.t(), c)

    def _scores(self, V, words, sizes):
        """Vectors of regions (N, R, E) and of packed words (P, E) -> scores (N, N), means over the words."""
        way, (N, R, E) = self.way['scores'], V.shape
        if way == 'padded':
            padded, lengths = pad_packed_sequence(PackedSequence(words, sizes), batch_first=True)    # (N, T, E)
            best = torch.einsum('mre,nte->mnrt', V, padded).amax(2)             # (M, N, T)
            there = torch.arange(padded.shape[1]) < lengths[:, None]
            return (best * there).sum(2) / lengths
        counts = (sizes[:, None] > torch.arange(N)).sum(0)                      # (N,), words with END
        share = F.one_hot(columns(sizes), N).to(V.dtype) / counts               # (P, N)
        if way.endswith('words inside'):
            products, axis = self._product(V.reshape(N * R, E), words).view(N, R, -1), 1
        else:
            products, axis = self._product(words, V.reshape(N * R, E)).view(-1, N, R), 2
        best = products.amax(axis) if way.startswith('amax') else products.max(axis).values
        return (best if axis == 1 else best.t()) @ share


def _gru_loop(sums: list[torch.Tensor], U: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The GRU step by step: sums, a list with each step's contribution of the inputs (n, 3H); U (H, 3H), c (3H,), the
    weights and bias of the state before -> (P, H).
    """
    h = torch.zeros(len(sums[0]), U.shape[0])
    hidden: list[torch.Tensor] = []
    for step in sums:
        if len(step) < len(h):
            h = h[:len(step)]
        r, z, n = step.chunk(3, 1)
        r2, z2, n2 = torch.addmm(c, h, U).chunk(3, 1)
        n = torch.tanh(n + torch.sigmoid(r + r2) * n2)
        h = torch.lerp(n, h, torch.sigmoid(z + z2))
        hidden.append(h)
    return torch.cat(hidden)


LOOPS = {'loop': _gru_loop, 'scripted loop': torch.jit.script(_gru_loop)}
DIRECTIONS = {'forward_': '', 'backward_': '_reverse'}


def to_torch(weights):
    """imagernn's parameters -> {name in RankingPeer: array}. Matrices are transposed, the gates have the same order."""
    arrays = {'image.weight': weights['We'].T, 'image.bias': weights['be'][0], 'word.weight': weights['Ws']}
    for prefix, end in (DIRECTIONS if 'Wd' in weights else {'': ''}).items():
        for ours, its in (('WGRU', 'ih'), ('UGRU', 'hh')):
            W = weights[prefix + ours]
            arrays |= {f'gru.weight_{its}_l0{end}': W[1:].T, f'gru.bias_{its}_l0{end}': W[0]}
    if 'Wd' in weights:
        arrays |= {'out.weight': weights['Wd'].T, 'out.bias': weights['bd'][0]}
    return arrays


def from_torch(arrays):
    """The inverse of to_torch: {name in RankingPeer: array} -> imagernn's parameters."""
    weights = {'We': arrays['image.weight'].T, 'be': arrays['image.bias'][None], 'Ws': arrays['word.weight']}
    for prefix, end in (DIRECTIONS if 'out.weight' in arrays else {'': ''}).items():
        for ours, its in (('WGRU', 'ih'), ('UGRU', 'hh')):
            rows = arrays[f'gru.bias_{its}_l0{end}'][None], arrays[f'gru.weight_{its}_l0{end}'].T
            weights[prefix + ours] = np.concatenate(rows)
    if 'out.weight' in arrays:
        weights |= {'Wd': arrays['out.weight'].T, 'bd': arrays['out.bias'][None]}
    return weights
