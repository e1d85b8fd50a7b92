"""PyTorch's side of the language models' benchmark: embedding, stacked nn.LSTM and decoder on a CPU, written for speed.

As in torch_peer.py, every choice that could make it faster or slower is in CHOICES. Weights and gradients have
imagernn's names and shapes outside.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

CHOICES = {
    # nn.LSTM on a window, or a loop over its steps, a layer after the other
    'recurrence': ('nn.LSTM', 'loop', 'scripted loop'),
    'library': ('MKL', 'oneDNN'),                    # for the matrix products outside the recurrence
    'softmax': ('whole softmax', 'chunked softmax'),    # F.cross_entropy or F.linear_cross_entropy (MKL only)
    'adam': ('foreach', 'for each', 'fused'),        # all parameters in one call, or not, or by the fused kernel
}


class TextPeer(nn.Module):
    """A language model of LSTMs. weights: imagernn's model; params: its flags. Dropout is where imagernn has it."""

    def __init__(self, weights, params):
        super().__init__()
        (V, E), H = weights['Ws'].shape, len(weights['Wd'])
        self.options, self.params, self.depth = CHOICES, params, params['hidden_sizes'].count(',') + 1
        self.word, self.decoder = nn.Embedding(V, E), nn.Linear(H, V)
        self.lstm = nn.LSTM(E, H, self.depth, dropout=params['drop_prob'])
        for k in range(self.depth):    # imagernn's LSTM has one bias
            nn.init.zeros_(getattr(self.lstm, f'bias_hh_l{k}').requires_grad_(False))
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, params['learning_rate'],
                                          (params['adam_beta1'], params['decay_rate']), params['smooth_eps'])
        arrays = to_torch(weights, self.depth)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
        self.state = None
        self.use({})

    def use(self, way):
        """Use these options from now on: {choice: option}. A choice that is not named gets its first option."""
        self.way = {name: choices[0] for name, choices in CHOICES.items()} | way
        for group in self.optimizer.param_groups:
            group['foreach'], group['fused'] = self.way['adam'] == 'foreach', self.way['adam'] == 'fused'

    def train_step(self, window):
        """Make one update, with dropout, from the state that the last window left. Returns the cost."""
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        cost = self._loss(window)
        cost.backward()
        clip_grad_norm_(self.parameters(), self.params['grad_clip'], foreach=self.way['adam'] != 'for each')
        self.optimizer.step()
        return cost.item()

    @torch.no_grad()
    def read(self, window):
        """Carry the state over a window, without dropout."""
        self.eval()
        self._loss(window)

    def cost_and_grads(self, window):
        """The cost of a window and its gradients, without dropout, in imagernn's names and shapes. Leaves the state."""
        self.eval()
        self.zero_grad()
        state = self.state
        cost = self._loss(window)
        self.state = state
        cost.backward()
        return cost.item(), from_torch({name: parameter.grad.numpy() for name, parameter in self.named_parameters()
                                        if parameter.requires_grad}, self.depth)

    def _loss(self, window):
        """The mean of -ln p of the targets of a Packed window. Keeps the state after it."""
        T, N = len(window.batch_sizes), int(window.batch_sizes[0])
        inputs, targets = (torch.from_numpy(array) for array in window[:2])
        X = self.word(inputs).view(T, N, -1)                                    # (T, N, E)
        H = (self._layers if self.way['recurrence'] == 'nn.LSTM' else self._loops)(X)
        H = self._dropout(H.flatten(0, 1))                                      # (T·N, H)
        if self.way['softmax'] == 'whole softmax':
            return F.cross_entropy(self._product(H, self.decoder.weight, self.decoder.bias), targets)
        return F.linear_cross_entropy(H, self.decoder.weight, targets, linear_bias=self.decoder.bias,
                                      options=nn.LinearCrossEntropyOptions())

    def _layers(self, X):
        H, state = self.lstm(X, self.state)
        self.state = tuple(part.detach() for part in state)                     # h and c, each (depth, N, H)
        return H

    def _loops(self, X):
        """As nn.LSTM: X (T, N, E) -> (T, N, H)."""
        T, N, _ = X.shape
        start = self.state or (X.new_zeros(self.depth, N, self.lstm.hidden_size),) * 2
        states = []
        for k in range(self.depth):
            W, U, b = (getattr(self.lstm, f'{name}_l{k}') for name in ('weight_ih', 'weight_hh', 'bias_ih'))
            X = self._dropout(X) if k else X
            sums = self._product(X.flatten(0, 1), W, b).split([N] * T)
            X, h, c = LOOPS[self.way['recurrence']](sums, U.t(), start[0][k], start[1][k])
            states.append((h.detach(), c.detach()))
        self.state = tuple(torch.stack(parts) for parts in zip(*states, strict=True))
        return X

    def _product(self, x, weight, bias):
        if self.way['library'] == 'oneDNN':
            return F.linear(x.to_mkldnn(), weight, bias).to_dense()
        return F.linear(x, weight, bias)

    def _dropout(self, x):
        return F.dropout(x, self.params['drop_prob'], self.training)


def _lstm_loop(sums: list[torch.Tensor], W: torch.Tensor, h: torch.Tensor,
               c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer step by step: sums, each step's share of the inputs (N, 4H); W (H, 4H); h, c (N, H) -> (T, N, H), h, c.
    """
    hidden: list[torch.Tensor] = []
    for step in sums:
        i, f, g, o = torch.addmm(step, h, W).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.stack(hidden), h, c


LOOPS = {'loop': _lstm_loop, 'scripted loop': torch.jit.script(_lstm_loop)}


def to_torch(weights, depth):
    """imagernn's parameters -> {name in TextPeer: array}. Matrices are transposed; the gates become i, f, g, o."""
    arrays = {'word.weight': weights['Ws'], 'decoder.weight': weights['Wd'].T, 'decoder.bias': weights['bd'][0]}
    for k in range(depth):
        W = _swapped(weights[f'layer{k}_WLSTM'])
        H = W.shape[1] // 4
        arrays |= {f'lstm.bias_ih_l{k}': W[0], f'lstm.weight_ih_l{k}': W[1:-H].T, f'lstm.weight_hh_l{k}': W[-H:].T}
    return arrays


def from_torch(arrays, depth):
    """The inverse of to_torch: {name in TextPeer: array} -> imagernn's parameters."""
    weights = {'Ws': arrays['word.weight'], 'Wd': arrays['decoder.weight'].T, 'bd': arrays['decoder.bias'][None]}
    for k in range(depth):
        rows = (arrays[f'lstm.bias_ih_l{k}'][None], arrays[f'lstm.weight_ih_l{k}'].T, arrays[f'lstm.weight_hh_l{k}'].T)
        weights[f'layer{k}_WLSTM'] = _swapped(np.concatenate(rows))
    return weights


def _swapped(W):
    """Weights with the gates i, f, o, g as their columns -> i, f, g, o, and back."""
    return W.reshape(len(W), 4, -1)[:, [0, 1, 3, 2]].reshape(W.shape)
