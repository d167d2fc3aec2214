"""What is special to LMANet: the memory's frames, structures, hosts, checkpoints."""

import copy
import pickle

import pytest
import torch
from torch import nn

import vidseg
from laws import check_laws
from vidseg.adapters.local_memory import LocalMemorySegmenter
from vidseg.data import drawn, preceding, spaced
from vidseg.layers.gated_fusion import FUSIONS, REDUCED
from vidseg.layers.local_attention import local_attention
from vidseg.methods import dead_keys
from vidseg.methods.lmanet import LMANet


def settle(model):
    """Give norms and biases values at which every part has an influence."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
    return model.eval()


STRUCTURES = {
    "first": {"memorize_first": True},
    "first, one frame": {"memorize_first": True, "memory_frames": 1},
    "recurrent": {"recurrent": True, "read_decoder": True},
    "read decoder": {"read_decoder": True},
    "published": {"border": "zero", "learnable_constant": True, "memory_frames": 3},
    "shallow": {"shallow_decoder": True},
    "pyramid": {"backbone": "resnet_tiny", "fusion": REDUCED, "zero_void": True},
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_keeps_the_laws(structure):
    torch.manual_seed(0)
    check_laws(settle(LMANet.tiny(4, **STRUCTURES[structure])), batch=1)


@pytest.mark.parametrize("fusion", [*FUSIONS, REDUCED])
def test_every_fusion_fits_the_decoder(fusion):
    torch.manual_seed(0)
    model = settle(LMANet.tiny(4, fusion=fusion))
    frames = torch.rand(1, 2, 3, 32, 40)
    with torch.no_grad():
        logits = model(frames)[0].logits
        changed = model(torch.cat([frames[:, :1] + 0.5, frames[:, 1:]], 1))[0].logits
    assert logits.shape == (1, 2, 4, 32, 40)
    assert not torch.equal(changed[:, 1], logits[:, 1])


def test_published_sizes():
    """Specification, section 1; 524,544 numbers of the pyramid's are dead."""
    with torch.device("meta"):
        erfnet = vidseg.create("lmanet_erfnet", num_classes=20)
        pspnet = vidseg.create("lmanet_pspnet101", num_classes=20, zero_void=True)
    assert count(erfnet) == 2_692_128
    assert count(erfnet.backbone) == 1_874_044
    assert count(erfnet.decoder) == 190_212
    assert count(erfnet.attention.memory_encoder) == count(erfnet.attention.query_encoder) == 92_240
    assert count(erfnet.attention.fusion) == 443_392
    assert count(pspnet) == 72_532_691 - 524_544
    assert count(pspnet.cls) == 18_885_139


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_first_frame_is_the_host_alone():
    torch.manual_seed(0)
    host = settle(vidseg.create("erfnet_tiny", num_classes=4))
    model = settle(LMANet.tiny(4))
    shared = {k: v for k, v in host.state_dict().items() if k in model.state_dict()}
    assert {k.split(".")[0] for k in shared} == {"backbone", "decoder"}
    model.load_state_dict(shared, strict=False)
    frame = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        alone, _ = host.step(frame)
        first, memory = model.step(frame)
        second, _ = model.step(frame, memory)
    assert torch.equal(first.logits, alone.logits)
    assert not torch.equal(second.logits, alone.logits)


def test_the_memory_forgets_the_oldest():
    model = settle(LMANet.tiny(4, memory_frames=2))
    frames = torch.rand(1, 4, 3, 32, 40)
    memory, memories = None, []
    with torch.no_grad():
        for t in range(4):
            _, memory = model.step(frames[:, t], memory)
            memories.append(memory)
    assert [m.frames_seen for m in memories] == [1, 2, 2, 2]
    assert not memories[0].keys[0].any()  # an empty slot is at the front
    assert memories[3].keys[0] is memories[2].keys[1]
    assert len({m.nbytes for m in memories}) == 1
    assert memories[0].keys[0].data_ptr() != memories[0].values[0].data_ptr()


def test_windows_leave_missing_frames_out():
    model = LMANet.tiny(3, memory_frames=3)
    assert model.window_frames(0) == (0,)
    assert model.window_frames(2) == (0, 1, 2)
    assert model.window_frames(9) == (6, 7, 8, 9)
    first = LMANet.tiny(3, memory_frames=3, memorize_first=True)
    assert first.window_frames(9) == (7, 8, 9)
    assert (model.horizon, first.horizon) == (3, 2)


def test_key_encoders_start_equal_and_apart():
    model = LMANet.tiny(3, key_channels=4)
    ours, theirs = (model.attention.memory_encoder.conv, model.attention.query_encoder.conv)
    assert torch.equal(ours.weight[:4], theirs.weight[:4])
    assert torch.equal(ours.bias[:4], theirs.bias[:4])
    assert not torch.equal(ours.weight[4:], theirs.weight[4:])
    assert ours.weight.data_ptr() != theirs.weight.data_ptr()


def test_strategies_choose_training_windows():
    """--memory-strategy all, skip_01 and random, of the specification's sections 5 and 9."""
    assert preceding(3)(9) == (6, 7, 8, 9)
    assert spaced(3, every=2)(9) == (3, 5, 7, 9)
    assert spaced(3, every=2, start="skip")(5) == ()
    window = drawn(2, within=3)(9)
    assert len(window) == 3
    assert window[-1] == 9
    assert set(window[:2]) < {6, 7, 8}
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        spaced(3, every=0)


def test_a_clip_shorter_than_the_window_reads_what_there_is():
    torch.manual_seed(0)
    model = settle(LMANet.tiny(4, memory_frames=3))
    frames = torch.rand(1, 2, 3, 32, 40)
    with torch.no_grad():
        short, memory = model(frames, readout="last")
        first, one = model.step(frames[:, 0])
        second, _ = model.step(frames[:, 1], one)
    assert memory.frames_seen == 2
    assert not torch.equal(first.logits, short.logits)
    torch.testing.assert_close(second.logits, short.logits)


def test_keys_and_values_must_fit():
    query, keys = torch.rand(1, 4, 5, 5), torch.rand(1, 2, 4, 5, 5)
    with pytest.raises(ValueError, match="keys"):
        local_attention(query, torch.rand(1, 2, 3, 5, 5), keys, radius_px=1)
    with pytest.raises(ValueError, match="values"):
        local_attention(query, keys, torch.rand(1, 3, 4, 5, 5), radius_px=1)


def test_read_decoder_gives_training_outputs():
    model = LMANet.tiny(4, read_decoder=True).train()
    segmentation, _ = model(torch.rand(2, 3, 3, 32, 40), readout="last")
    assert segmentation.aux["read"].shape == (2, 1, 4, 32, 40)
    assert vidseg.create("lmanet_tiny", num_classes=4).auxiliary(None, None) == {}


def test_options_that_cannot_be():
    with pytest.raises(
        ValueError, match="window must be a whole number, odd and at least 1, got 8"
    ):
        LMANet.tiny(3, window=8)
    for name, count in (("memory_frames", 0), ("memory_frames", 2.0), ("key_channels", 0)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got"):
            LMANet.tiny(3, **{name: count})
    with pytest.raises(ValueError, match="unknown fusion 'sum'; there are sigmoid, "):
        LMANet.tiny(3, fusion="sum")
    with pytest.raises(ValueError, match="exclude each other"):
        LMANet.tiny(3, recurrent=True, memorize_first=True)
    with pytest.raises(ValueError, match="for ERFNet alone"):
        LMANet.tiny(3, backbone="resnet_tiny", read_decoder=True)
    with pytest.raises(ValueError, match=r"no decoder for 'mit_tiny'.*vidseg\.LocalMemory"):
        LMANet.tiny(3, backbone="mit_tiny")
    with pytest.raises(ValueError, match="zero_void is PSPNet's"):
        LMANet.tiny(3, zero_void=True)
    with pytest.raises(ValueError, match='border must be "zero" or "mask"'):
        LMANet.tiny(3, border="reflect")


def test_a_memory_of_another_stream():
    model = settle(LMANet.tiny(3))
    with torch.no_grad():
        _, memory = model.step(torch.rand(1, 3, 32, 40))
        with pytest.raises(ValueError, match="frames of one stream have one size"):
            model.step(torch.rand(1, 3, 32, 48), memory)
        with pytest.raises(ValueError, match="holds 2 frames, this model reads 4"):
            settle(LMANet.tiny(3, memory_frames=4)).step(torch.rand(1, 3, 32, 40), memory)
        with pytest.raises(ValueError, match="values are of another model; start the stream anew"):
            settle(LMANet.tiny(3, key_channels=6)).step(torch.rand(1, 3, 32, 40), memory)
        with pytest.raises(ValueError, match=r"float64 on cpu.*float32 on cpu; memory\.to\('cpu'"):
            model.step(torch.rand(1, 3, 32, 40), memory.to(torch.float64))
        with pytest.raises(ValueError, match="multiples of 8, got 33x40"):
            model.step(torch.rand(1, 3, 33, 40))


class Split(LocalMemorySegmenter):
    """Any network in two halves."""

    def __init__(self):
        super().__init__()
        self.num_classes = 4
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)
        self.build_memory(
            8, memory_frames=2, memorize_first=False, recurrent=False, key_channels=4,
            window=5, fusion="sigmoid", border="mask", learnable_constant=False,
        )  # fmt: skip

    def encode_image(self, frames):
        return self.first(frames)

    def decode_map(self, x):
        return self.second(x)


def test_any_network_can_be_split():
    torch.manual_seed(0)
    check_laws(settle(Split()))


class Pyramid(nn.Module):
    """An image network whose decoder reads maps of two sizes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(14, 4, 1)

    def encode(self, frames):
        fine = self.first(frames)
        return {"fine": fine, "coarse": self.second(fine)}

    def decode(self, maps):
        size = maps["fine"].shape[-2:]
        coarse = nn.functional.interpolate(maps["coarse"], size)
        return self.head(torch.cat([maps["fine"], coarse], 1))


PYRAMID = {"split": (Pyramid.encode, Pyramid.decode), "level": 1, "memory_frames": 2, "window": 5}


HOSTS = {
    "pyramid": lambda: vidseg.LocalMemory(Pyramid(), **PYRAMID, key_channels=4),
    "recurrent": lambda: vidseg.LocalMemory(Pyramid(), **PYRAMID, key_channels=4, recurrent=True),
    "ours": lambda: vidseg.LocalMemory(
        vidseg.create("erfnet_tiny", num_classes=4), memory_frames=2, window=3
    ),
    "wide": lambda: vidseg.LocalMemory(
        nn.Sequential(nn.Conv2d(3, 258, 3, 4, 1), nn.ReLU(), nn.Conv2d(258, 4, 1)),
        (lambda net, x: net[1](net[0](x)), "2"),
        memory_frames=1,
        window=3,
    ),
}


@pytest.mark.parametrize("host", HOSTS)
def test_any_image_network_gets_a_local_memory(host):
    torch.manual_seed(0)
    model = settle(HOSTS[host]())
    assert model.num_classes == 4
    assert model.training_needs().host_parts == ("host",)
    assert (model.attention.value_channels is None) == (host == "wide")
    check_laws(model, batch=1, size=(24, 32))


@pytest.mark.parametrize("host", ["recurrent", "ours"])
def test_a_local_memory_survives_pickle(host):
    torch.manual_seed(0)
    model = settle(HOSTS[host]())
    again = pickle.loads(pickle.dumps(model))
    frames = torch.rand(1, 3, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(again(frames)[0].logits, model(frames)[0].logits)


def test_a_local_memory_is_of_its_networks_type():
    model = vidseg.LocalMemory(Pyramid().double(), **PYRAMID, recurrent=True)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_the_local_memory_around_a_model_is_that_of_lmanet():
    torch.manual_seed(0)
    host = settle(vidseg.create("erfnet_tiny", num_classes=4))
    theirs = settle(LMANet.tiny(4))
    theirs.load_state_dict(host.state_dict(), strict=False)
    ours = vidseg.LocalMemory(host, memory_frames=2, key_channels=4, window=5)
    ours.attention.load_state_dict(theirs.attention.state_dict())
    frames = torch.rand(1, 4, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(ours.eval()(frames)[0].logits, theirs(frames)[0].logits)
    assert ours.card.size_multiple == 8
    assert ours.prefers_channels_last


@pytest.mark.parametrize("trained", [(), ("head",), ("",)])
def test_only_the_new_parts_are_trained_unless_named(trained):
    model = vidseg.LocalMemory(Pyramid(), **PYRAMID, trained=trained).train()
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    in_host = {name for name in names if name.startswith("host.")}
    assert names - in_host == {
        f"attention.{name}" for name, _ in model.attention.named_parameters()
    }
    wanted = {(): set(), ("head",): {"host.head.weight", "host.head.bias"}}
    assert in_host == wanted.get(trained, {f"host.{n}" for n, _ in model.host.named_parameters()})
    assert model.host.second[1].training is (trained == ("",))
    assert model.attention.fusion.training
    copied = copy.deepcopy(model).eval()
    nn.init.zeros_(copied.host.head.weight)
    frames = torch.rand(1, 2, 3, 16, 16)
    assert not torch.equal(copied(frames)[0].logits, model.eval()(frames)[0].logits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: vidseg.LocalMemory(Pyramid()),
            "Pyramid does not say where it can be split.*first",
        ),
        (lambda: vidseg.LocalMemory(Pyramid(), ("body", "head")), "no module 'body'; it has first"),
        (
            lambda: vidseg.LocalMemory(vidseg.PerFrame(Pyramid(), num_classes=4)),
            "PerFrame runs its model as a whole",
        ),
        (lambda: vidseg.LocalMemory(LMANet.tiny(4)), "LMANet has a memory of its own"),
        (
            lambda: vidseg.LocalMemory(Pyramid(), (Pyramid.encode, Pyramid.decode), level=2),
            r"level=2: the first half gives 2 tensors, \[\(1, 6, 32, 32\), \(1, 8, 16, 16\)\]",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), (lambda net, x: x.mean((2, 3)), "head")),
            r"must give tensors, that at level=-1 a map \(N, D, h, w\); got \[\(1, 3\)\]",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), ("first", lambda net, x: (x,))),
            r"second half must give logits \(N, C, h, w\), got tuple",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), **{**PYRAMID, "window": 8}),
            "window must be a whole number, odd and at least 1, got 8",
        ),
        (lambda: vidseg.LocalMemory(Pyramid(), "first"), "two halves.* got 'first'"),
        (
            lambda: vidseg.LocalMemory(Pyramid(), ("head", "second")),
            r"first half fails on a frame \(1, 3, 64, 64\) \(RuntimeError: .*size=\(H, W\) gives",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), (Pyramid.encode, "head"), level=1),
            r"second half fails on the first's dict of \[\(1, 6, 32, 32\), \(1, 8, 16, 16\)\] "
            r"\(TypeError: .*pass functions of \(model, input\)",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), **PYRAMID, trained=["body"]),
            "trained: Pyramid has no module 'body'; it has first, second, head",
        ),
        (
            lambda: vidseg.LocalMemory(Pyramid(), **PYRAMID, key_channels=0),
            "key_channels must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_networks_that_cannot_be_split(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: (net, (net.first, net.head)), "got the module Conv2d; write 'first'"),
        (lambda net: (net, (nn.ReLU(), "head")), "got the module ReLU; call it in a function"),
        (
            lambda net: (net, (net.encode, net.decode)),
            r"got a method of one object; write Pyramid\.encode",
        ),
        (lambda net: (net, (0, 1)), r"names of modules or functions of \(model, input\), got 0"),
        (lambda net: (net.encode, ("first", "head")), r"must be an nn\.Module, got method"),
    ],
)
def test_halves_of_another_type(make, message):
    with pytest.raises(TypeError, match=message):
        vidseg.LocalMemory(*make(Pyramid()))
    with pytest.raises(TypeError, match=r"such as \('head',\), got 'head'"):
        vidseg.LocalMemory(Pyramid(), **PYRAMID, trained="head")


def test_a_network_is_left_as_it_was_where_the_options_are_wrong():
    network = Pyramid()
    with pytest.raises(ValueError, match="unknown fusion"):
        vidseg.LocalMemory(network, **PYRAMID, fusion="sum")
    assert all(p.requires_grad for p in network.parameters())


def official(**options):
    """A model as the authors' commands make it, and its state dict under their names."""
    torch.manual_seed(0)
    model = LMANet(20, border="zero", **options)
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("attention.fusion."):
            tensors |= official_fusion(name.removeprefix("attention.fusion."), value, model)
        elif ".conv." in name and name.split(".")[-3] in ENCODERS:
            *_, encoder, _, kind = name.split(".")
            widths = [model.attention.key_channels, -1]
            key, rest = value[: widths[0]], value[widths[0] :]
            tensors[f"{ENCODERS[encoder]}.Key.{kind}"] = key
            if len(rest):
                tensors[f"{ENCODERS[encoder]}.Value.{kind}"] = rest
        else:
            tensors[official_name(name, model)] = value
    return settle(model), {f"module.{k}": v for k, v in tensors.items()}


ENCODERS = {
    "memory_encoder": "kv_M_r4",
    "query_encoder": "kv_Q_r4",
    "first_encoder": "kv_init_r4",
}


def official_name(name, model):
    if name.startswith("decoder.") and isinstance(model.decoder, nn.Conv2d):
        return name.replace("decoder.", "decoder.output_conv_stm_shallow.")
    for ours, theirs in (
        ("attention.constant", "memory_module_local.const"),
        ("backbone.stem.", "encoder.layer0."),
        ("backbone.", "encoder."),
        ("read_decoder.", "decoder_mem."),
        ("cls.", "decoder.cls."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def official_fusion(name, value, model):
    part, _, rest = name.partition(".")
    fusion = model.attention.fusion
    if part == "gates":
        names = {1: ["conv_layer_34"], 2: ["conv_layer_3", "conv_layer_4"]}[fusion.num_gates]
        if fusion.num_gates == 1 and fusion.value_norm is None:
            names = ["conv_layer_3"]
        parts = value.chunk(fusion.num_gates)
        return {f"memory_fusion.{n}.{rest}": v for n, v in zip(names, parts, strict=True)}
    theirs = {
        "value_norm": "bn1",
        "read_norm": "bn2",
        "value_conv": "conv_layer_1",
        "read_conv": "conv_layer_2",
        "norm": "bn",
        "reduction_norm": "bn0",
        "reduction": "conv_layer_1",
        "value_gate": "conv_layer_3",
        "read_gate": "conv_layer_4",
    }
    found = {f"memory_fusion.{theirs[part]}.{rest}": value}
    if part == "reduction":
        found[f"memory_fusion.conv_layer_2.{rest}"] = torch.full_like(value, torch.nan)
    return found


@pytest.mark.parametrize("fusion", FUSIONS)
def test_official_fusions_load(fusion):
    model, tensors = official(fusion=fusion)
    loaded = vidseg.load_official("lmanet", tensors, fusion=fusion)
    same_logits(model, loaded)
    assert loaded.card.options["fusion"] == fusion


@pytest.mark.parametrize(
    "options",
    [
        {"recurrent": True},
        {"read_decoder": True, "learnable_constant": True},
        {"shallow_decoder": True},
    ],
)
def test_official_structures_load(tmp_path, options):
    model, tensors = official(**options)
    loaded = vidseg.load_official("lmanet", tensors)
    same_logits(model, loaded)
    assert loaded.card.architecture == "lmanet_erfnet"
    assert loaded.card.classes[-1] == "void"
    assert loaded.card.std == (255, 255, 255)
    assert loaded.card.size_multiple == 8
    vidseg.weights.save(loaded, tmp_path / "ours.safetensors")
    same_logits(model, vidseg.load(tmp_path / "ours.safetensors"))


def test_official_options_cannot_be_read_from_tensors():
    model, tensors = official(window=7, memory_frames=2, memorize_first=True)
    options = {"window": 7, "memory_frames": 2, "memorize_first": True}
    same_logits(model, vidseg.load_official("lmanet", tensors, **options))
    defaults = vidseg.load_official("lmanet", tensors)
    assert (defaults.memory_frames, defaults.memorize_first) == (3, False)
    assert defaults.attention.radius_px == 10
    assert defaults.card.options["fusion"] == "sigmoid-do1"
    with pytest.raises(TypeError, match="of lmanet have no option 'memory_frame'; did you mean"):
        vidseg.load_official("lmanet", tensors, memory_frame=4)
    with pytest.raises(ValueError, match="has the form of sigmoid-do1 or sigmoid-do2, so it can"):
        vidseg.load_official("lmanet", tensors, fusion="concat")


def test_official_keys_are_all_accounted_for():
    _, tensors = official()
    with pytest.raises(ValueError, match=r"unexpected: decoder\.extra"):
        vidseg.load_official("lmanet", {**tensors, "module.decoder.extra": torch.zeros(1)})
    without = {k: v for k, v in tensors.items() if k != "module.kv_M_r4.Value.bias"}
    with pytest.raises(ValueError, match=r"attention\.memory_encoder\.conv\.bias"):
        vidseg.load_official("lmanet", without)
    with pytest.raises(ValueError, match=r"there is no kv_Q_r4\.Key\.weight"):
        vidseg.load_official("lmanet", {"encoder.x": torch.zeros(1)})
    classifier = {"encoder.output_conv.bias": torch.zeros(20)}
    plain = {k.removeprefix("module."): v for k, v in tensors.items()}
    vidseg.load_official("lmanet", plain | classifier)
    assert dead_keys("lmanet", plain | classifier).keys() == classifier.keys()


def same_logits(ours, theirs):
    frames = torch.rand(1, 3, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(theirs(frames)[0].logits, ours(frames)[0].logits)


def test_convert_lists_what_is_dead(tmp_path, capsys):
    from vidseg.cli.convert import convert

    _, tensors = official()
    tensors["module.encoder.output_conv.bias"] = torch.zeros(20)
    torch.save(tensors, tmp_path / "lmanet.pth")
    convert("lmanet", tmp_path / "lmanet.pth", tmp_path / "ours.safetensors", ["memory_frames=4"])
    out = capsys.readouterr().out
    assert "not used: encoder.output_conv.bias (ERFNet's classifier on the encoder;" in out
    assert vidseg.load(tmp_path / "ours.safetensors").memory_frames == 4
