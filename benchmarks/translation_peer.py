"""PyTorch's side of the translation benchmark: encoder and decoder of nn.LSTM, with or without attention, on a CPU.

As in torch_peer.py, every choice that could make it faster or slower is in CHOICES. Weights and gradients have
imagernn's names and shapes outside.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from imagernn.nn.packing import reversing
from imagernn.translation.batch import target_places
from imagernn.translation.model import directions_of, sizes_of

CHOICES = {
    # nn.LSTM on packed sentences, or a loop over the steps of the packed rows, a layer after the other
    'encoder': ('packed', 'loop', 'scripted loop'),
    # the same, or nn.LSTM on padded sentences, whose padding is left out of the softmax
    'decoder': ('packed', 'padded', 'loop', 'scripted loop'),
    'library': ('MKL', 'oneDNN'),                    # for the matrix products outside the recurrence
    'softmax': ('whole softmax', 'chunked softmax'),    # F.cross_entropy or F.linear_cross_entropy (MKL only)
    'adam': ('foreach', 'for each', 'fused'),        # all parameters in one call, or not, or by the fused kernel
}
# the weighted mean of the encoders' states: softmax between two batched products, or PyTorch's function for all three
ATTENTION_CHOICES = {**CHOICES, 'attention': ('batched products', 'F.scaled_dot_product_attention')}


class TranslationPeer(nn.Module):
    """A translator of LSTMs of equal sizes with tanhC_version. weights: imagernn's model; params: its flags.

    Dropout is where imagernn has it.
    """

    def __init__(self, weights, params):
        super().__init__()
        (V, E), (source_V, _), (H, *others) = weights['Ws'].shape, weights['source_Ws'].shape, sizes_of(params)
        if set(others) - {H}:
            raise ValueError(f'--hidden_sizes {params["hidden_sizes"]}: the layers of nn.LSTM have the same size')
        self.options, self.params = ATTENTION_CHOICES if params['attention'] else CHOICES, params
        if params['label_smoothing']:    # of which F.linear_cross_entropy makes no chunks
            self.options = {**self.options, 'softmax': CHOICES['softmax'][:1]}
        self.source_word, self.word, self.top = nn.Embedding(source_V, E), nn.Embedding(V, E), nn.Linear(H, V)
        depth, drop_prob = 1 + len(others), params['drop_prob']
        self.lstm = nn.ModuleDict({f'{direction}_encoder': nn.LSTM(E, H, depth, dropout=drop_prob if others else 0)
                                   for direction in directions_of(params)})
        self.lstm['decoder'] = nn.LSTM(E, H, depth, dropout=drop_prob if others else 0)
        if params['attention']:
            self.query, self.combine = nn.Linear(H, 2 * H, bias=False), nn.Linear(3 * H, H)
        for name, parameter in self.named_parameters():    # imagernn's LSTM has one bias
            if 'bias_hh' in name:
                nn.init.zeros_(parameter.requires_grad_(False))
        self.optimizer = torch.optim.Adam(self._trained().values(), params['learning_rate'],
                                          (params['adam_beta1'], params['decay_rate']), params['smooth_eps'])
        arrays = to_torch(weights, params)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
        self.use({})

    def use(self, way):
        """Use these options from now on: {choice: option}. A choice that is not named gets its first option."""
        self.way = {name: choices[0] for name, choices in self.options.items()} | way
        for group in self.optimizer.param_groups:
            group['foreach'], group['fused'] = self.way['adam'] == 'foreach', self.way['adam'] == 'fused'

    def train_step(self, batch, learning_rate=None):
        """Make one update, with dropout, with the learning rate of params or the one given. Returns the cost."""
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        cost = self._loss(batch)
        cost.backward()
        if self.params['grad_clip'] > 0:
            clip_grad_norm_(self.parameters(), self.params['grad_clip'], foreach=self.way['adam'] != 'for each')
        if learning_rate is not None:
            for group in self.optimizer.param_groups:
                group['lr'] = learning_rate
        self.optimizer.step()
        return cost.item()

    def cost_and_grads(self, batch):
        """The cost of a Batch and its gradients, without dropout, in imagernn's names and shapes."""
        self.eval()
        self.zero_grad()
        cost = self._loss(batch)
        cost.backward()
        return cost.item(), from_torch({name: parameter.grad.numpy() for name, parameter in self._trained().items()},
                                       self.params)

    def weights(self):
        """A copy of the weights in imagernn's names and shapes."""
        arrays = {name: parameter.detach().numpy() for name, parameter in self._trained().items()}
        return {name: np.array(w, order='C') for name, w in from_torch(arrays, self.params).items()}

    def _trained(self):
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _loss(self, batch):
        """The mean of -ln p of the target words, END among them, or of what label smoothing makes of it."""
        hidden, last = self._encode(batch.source)
        back = torch.from_numpy(np.argsort(target_places(batch)))              # packed targets -> packed sources
        start = tuple(part.index_select(1, back) for part in last)              # h and c, each (depth, N, H)
        inputs, targets, sizes = (torch.from_numpy(array) for array in batch.target[:3])
        X = self._dropout(self.word(inputs))                                    # (P, E)
        H = self._run('decoder', X, sizes, start, self.way['decoder'])[0]       # (P, H)
        if self.params['attention']:
            H = self._attend(H, sizes, *self._memory(hidden, batch.source, back))
        H = self._dropout(H)
        if self.way['softmax'] == 'whole softmax':
            return F.cross_entropy(self._linear(H, self.top.weight, self.top.bias), targets,
                                   label_smoothing=self.params['label_smoothing'])
        return F.linear_cross_entropy(H, self.top.weight, targets, linear_bias=self.top.bias,
                                      options=nn.LinearCrossEntropyOptions())

    def _encode(self, source):
        """A Packed -> each direction's hidden states, a list of (P, H); and the first one's last states of all layers,
        h and c, each (depth, N, H).
        """
        X = self._dropout(self.source_word(torch.from_numpy(source.inputs)))
        sizes, turned = torch.from_numpy(source.batch_sizes), torch.from_numpy(reversing(source.batch_sizes))
        hidden, lasts = [], []
        for direction in directions_of(self.params):
            turn = (lambda rows: rows.index_select(0, turned)) if direction == 'backward' else (lambda rows: rows)
            H, last = self._run(f'{direction}_encoder', turn(X), sizes, None, self.way['encoder'])
            hidden.append(turn(H) if self.params['attention'] else H)
            lasts.append(last)
        return hidden, lasts[0]

    def _run(self, part, X, sizes, start, recurrence):
        """All layers of a part of the model: X (P, E) -> H (P, H) and the last states (None of padded sentences)."""
        lstm = self.lstm[part]
        if recurrence == 'packed':
            H, last = lstm(PackedSequence(X, sizes), start)
            return H.data, last
        if recurrence == 'padded':
            padded, lengths = pad_packed_sequence(PackedSequence(X, sizes))     # (T, N, E)
            alive = torch.arange(len(sizes))[:, None] < lengths                 # (T, N)
            return lstm(padded, start)[0].flatten(0, 1).index_select(0, alive.flatten().nonzero().squeeze(1)), None
        states, zeros = [], X.new_zeros(int(sizes[0]), lstm.hidden_size)
        for k in range(lstm.num_layers):
            X = self._dropout(X) if k else X
            sums = self._linear(X, getattr(lstm, f'weight_ih_l{k}'), getattr(lstm, f'bias_ih_l{k}'))
            h, c = (part[k] for part in start) if start else (zeros, zeros)
            X, h, c = LOOPS[recurrence](sums.split(sizes.tolist()), getattr(lstm, f'weight_hh_l{k}').t(), h, c)
            states.append((h, c))
        return X, tuple(torch.stack(parts) for parts in zip(*states, strict=True))

    def _memory(self, hidden, source, back):
        """What attention looks at, in the order of the packed targets: values (N, R, 2H), absent (N, R)."""
        sizes = torch.from_numpy(source.batch_sizes)
        values, lengths = pad_packed_sequence(PackedSequence(torch.cat(hidden, 1), sizes), batch_first=True)
        return values.index_select(0, back), torch.arange(len(sizes)) >= lengths[back, None]

    def _attend(self, H, sizes, values, absent):
        """The decoder's states H (P, H) -> what attention makes of them (P, H)."""
        queries = self._linear(H, self.query.weight, None)                      # (P, 2H)
        queries, lengths = pad_packed_sequence(PackedSequence(queries, sizes), batch_first=True)    # (N, T, 2H)
        if self.way['attention'] == 'batched products':
            scores = torch.bmm(queries, values.transpose(1, 2)).masked_fill(absent[:, None], -torch.inf)
            contexts = torch.bmm(scores.softmax(2), values)
        else:
            contexts = F.scaled_dot_product_attention(*(x[:, None] for x in (queries, values, values)),
                                                      attn_mask=~absent[:, None, None], scale=1)[:, 0]
        contexts = pack_padded_sequence(contexts, lengths, batch_first=True).data
        return torch.tanh(self._linear(torch.cat([H, contexts], 1), self.combine.weight, self.combine.bias))

    def _linear(self, x, weight, bias):
        if self.way['library'] == 'oneDNN':
            return F.linear(x.to_mkldnn(), weight.contiguous(), bias).to_dense()
        return F.linear(x, weight, bias)

    def _dropout(self, x):
        return F.dropout(x, self.params['drop_prob'], self.training)


def _lstm_loop(sums: list[torch.Tensor], W: torch.Tensor, h: torch.Tensor,
               c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer step by step: sums, each step's share of the inputs (n, 4H); W (H, 4H); h, c (N, H), the start.

    Returns H (P, H), and h, c (N, H) after the last step of each sentence.
    """
    hidden: list[torch.Tensor] = []
    last_h: list[torch.Tensor] = []
    last_c: list[torch.Tensor] = []
    for step in sums:
        n = len(step)
        if n < len(h):
            last_h.insert(0, h[n:])
            last_c.insert(0, c[n:])
            h, c = h[:n], c[:n]
        i, f, g, o = torch.addmm(step, h, W).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    last_h.insert(0, h)
    last_c.insert(0, c)
    return torch.cat(hidden), torch.cat(last_h), torch.cat(last_c)


LOOPS = {'loop': _lstm_loop, 'scripted loop': torch.jit.script(_lstm_loop)}
WORDS = {'source_word.weight': 'source_Ws', 'word.weight': 'Ws'}
LINEAR = {'top': ('Wd', 'bd')}
ATTENTION = {'query': ('attention_Wscore', None), 'combine': ('attention_Wcombine', 'attention_bcombine')}


def to_torch(weights, params):
    """imagernn's parameters -> {name in TranslationPeer: array}. Matrices are transposed; the gates become i, f, g, o.
    """
    arrays = {its: weights[ours] for its, ours in WORDS.items()}
    for its, (W, b) in _linear_layers(params):
        arrays[f'{its}.weight'] = weights[W].T
        if b:
            arrays[f'{its}.bias'] = weights[b][0]
    for its, ours in _layers(params):
        W = _swapped(weights[f'{ours}_WLSTM'])
        H = W.shape[1] // 4
        arrays |= {its.format('bias_ih'): W[0], its.format('weight_ih'): W[1:-H].T, its.format('weight_hh'): W[-H:].T}
    return arrays


def from_torch(arrays, params):
    """The inverse of to_torch: {name in TranslationPeer: array} -> imagernn's parameters."""
    weights = {ours: arrays[its] for its, ours in WORDS.items()}
    for its, (W, b) in _linear_layers(params):
        weights[W] = arrays[f'{its}.weight'].T
        if b:
            weights[b] = arrays[f'{its}.bias'][None]
    for its, ours in _layers(params):
        rows = arrays[its.format('bias_ih')][None], arrays[its.format('weight_ih')].T, arrays[its.format('weight_hh')].T
        weights[f'{ours}_WLSTM'] = _swapped(np.concatenate(rows))
    return weights


def _linear_layers(params):
    """The name of each nn.Linear in TranslationPeer, beside imagernn's of its weights and bias."""
    return [*LINEAR.items(), *(ATTENTION.items() if params['attention'] else ())]


def _layers(params):
    """The name of each layer's parameters in TranslationPeer, with a place for the kind, beside that of imagernn."""
    for k in range(len(sizes_of(params))):
        for part in (*(f'{direction}_encoder' for direction in directions_of(params)), 'decoder'):
            yield f'lstm.{part}.{{}}_l{k}', f'{part.removesuffix("_encoder")}_layer{k}'


def _swapped(W):
    """Weights with the gates i, f, o, g as their columns -> i, f, g, o, and back."""
    return W.reshape(len(W), 4, -1)[:, [0, 1, 3, 2]].reshape(W.shape)
