"""Distillation: what is drawn together, what a student learns, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import config
from helpers.classifiers.fit import OneProcess
from helpers.classifiers.grad_cam import grad_cam
from helpers.classifiers.networks import Classifier, Network, load_classifier
from helpers.data.scan import Scan
from helpers.data.split import Labelled
from helpers.distillation.distillation import BY_SAMPLE, Distillation, distil, loss_weights
from helpers.distillation.partners import (
    distillation_batches,
    eyes_of,
    images_of,
    one_hot,
    prepare_both,
)
from helpers.distillation.report import chosen_of, class_similarities, compared
from helpers.distillation.study import (
    ALONE,
    ARMS,
    arms_of,
    folds_of,
    head_start,
    out_of_fold,
    pull_of,
    teach,
)
from helpers.distillation.world import gain_map, overlaps, simulate_world, thirds
from helpers.measures.diagnosis import diagnosis

CLASSES = ["NORMAL", "AMD", "DME"]
SMALL = ["--backbone=test_efficientnet", "--teacher_backbone=test_efficientnet", "--pretrained=0",
         "--embedding=16", "--dropout=0.1", "--steps=60", "--lr=3e-3", "--batch_size=24",
         "--size=32"]  # fmt: skip
WIDTH = 256  # of test_efficientnet's features


def settings_of(*given):
    return config.resolve(config.Distil, [*SMALL, *given], {})


def rows(count, seed, skill=2.0, patients="p", shares=(0.4, 0.3, 0.3)):
    """Features (count, WIDTH) in which 5 numbers of each class say what it is; two per patient."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count // 2, p=shares).repeat(2)
    features = rng.normal(0, 1, (count, WIDTH)).astype(np.float32)
    for k in range(3):
        features[labels == k, 5 * k : 5 * k + 5] += skill
    return Labelled(features, labels, np.array([f"{patients}{i // 2}" for i in range(count)]))


def mean_precision(student, scans):
    report = diagnosis(scans.labels, student(scans.images), CLASSES,
                       multilabel=student.multilabel, resamples=2)  # fmt: skip
    return report["map"]["value"]


def steps_of(method, learned, scans, count, size=24):
    """The records of some steps."""
    stream = distillation_batches(learned.images, learned.labels, scans.images, scans.labels, size)
    return [method.step(next(stream), OneProcess) for _ in range(count)]


@pytest.fixture(scope="module")
def scans():
    return rows(120, 1, patients="oct")


@pytest.fixture(scope="module")
def teacher(scans):
    return teach(scans, CLASSES, settings_of())


def drawn(partners, labels, their_labels, batches=40, **more):
    labels, their_labels = np.asarray(labels), np.asarray(their_labels)
    own = np.arange(len(labels), dtype=np.float32)[:, None]
    theirs = np.arange(len(their_labels), dtype=np.float32)[:, None]
    stream = distillation_batches(own, labels, theirs, their_labels, 4, partners=partners, **more)
    return [next(stream) for _ in range(batches)]


def test_drawn_by_label_every_row_meets_its_own_label_and_many_partners():
    labels, theirs = [0] * 10 + [1] * 3, [0, 1, 1, 0, 1]
    found = drawn("label", labels, theirs)
    assert all(torch.equal(own[1], other[1]) for own, other in found)
    first = torch.cat([own[1] for own, _ in found])
    assert 0.4 < first.float().mean() < 0.6  # rare classes as often as others
    met = {int(o) for own, other in found for i, o in zip(own[0], other[0]) if i == 11}
    assert met == {1, 2, 4}


def test_independent_draws_do_not_match_and_pairs_stay_pairs():
    labels = [0, 1] * 6
    found = drawn("independent", labels, labels)
    alike = torch.cat([own[1] == other[1] for own, other in found]).float().mean()
    assert 0.3 < alike < 0.7
    assert all(torch.equal(own[0], other[0]) for own, other in drawn("eye", labels, labels))
    with pytest.raises(ValueError, match="no pairs"):
        drawn("eye", labels, labels[:-1])


def test_a_label_that_the_teachers_side_lacks_meets_another():
    found = drawn("label", [0, 1, 2, 0], [0, 1, 1])
    other = [o for own, them in found for k, o in zip(own[1], them[1]) if k == 2]
    assert other and 2 not in other


def test_multilabel_partners_agree_in_what_the_teachers_side_has():
    """A photograph of classes 0 and 2 meets scans of class 0 where no scan shows class 2."""
    labels = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    theirs = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    for own, other in drawn("label", labels, theirs):
        assert torch.equal(own[1][:, :2], other[1][:, :2])


def test_classes_that_the_teachers_side_lacks_come_as_often_as_the_others():
    """Multilabel in kind, yet of one class each: what the student is shown is not the teacher's."""
    labels = np.eye(3, dtype=np.float32)[[0] * 6 + [1] * 6 + [2] * 6]
    theirs = np.array([[1, 0, 0]] * 5, np.float32)
    beside, alone = drawn("label", labels, theirs, 99), drawn("label", labels, labels, 99)
    shown = torch.cat([own[1] for own, _ in beside]).mean(0)
    assert shown.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert all(torch.equal(a[0], b[0]) for (a, _), (b, _) in zip(beside, alone))


def test_a_resumed_stream_goes_on_and_ranks_share_it():
    labels, theirs = np.arange(12) % 3, np.arange(9) % 3
    whole = drawn("label", labels, theirs, 10)
    later = drawn("label", labels, theirs, 4, start=6)
    for (a, b), (c, d) in zip(whole[6:], later):
        assert torch.equal(a[0], c[0]) and torch.equal(b[0], d[0])
    parts = [drawn("label", labels, theirs, 3, rank=r, world_size=2) for r in (0, 1)]
    for first, second in zip(*parts):
        for own, other in (first, second):
            assert torch.equal(own[1], other[1])


@pytest.mark.slow
def test_every_loss_is_learned_and_every_student_stays_as_good_as_one_alone(scans, teacher):
    learned, unseen = rows(200, 2), rows(300, 3)
    scores = {}
    for name in ["", *(f"{loss}=1" for loss in BY_SAMPLE), "cpm=2,csa=1"]:
        student = distil(learned.images, learned.labels, CLASSES, settings_of(f"--losses={name}"),
                         teacher, scans.images, scans.labels)  # fmt: skip
        scores[name] = mean_precision(student, unseen)
    assert min(scores.values()) > 0.9 * scores[""] > 0.75


@pytest.mark.slow
def test_a_students_loss_falls(scans, teacher):
    """What is asked for is what is learned: each loss is lower late in training than early."""
    learned = rows(200, 2)
    for name in ("cpm", "csa", *BY_SAMPLE):
        torch.manual_seed(0)
        s = settings_of(f"--losses={name}=5")
        method = Distillation(s, CLASSES, teacher, shown=learned.images)
        values = [record[f"loss_{name}"] for record in steps_of(method, learned, scans, s.steps)]
        assert np.mean(values[-15:]) < np.mean(values[:5]), name


def test_pairs_carry_what_labels_do_not(scans):
    """Labels are noise; a teacher that sees the same eyes knows better. Without pairs it cannot."""
    eyes, unseen = rows(300, 4), rows(400, 5)
    scans_of_eyes = rows(300, 4, skill=3.0)
    master = teach(rows(300, 9, skill=3.0), CLASSES, settings_of())
    wrong = np.random.default_rng(0).permutation(eyes.labels)
    found = {}
    for partners in ("eye", "label"):
        s = settings_of("--losses=kd=10", f"--partners={partners}")
        student = distil(eyes.images, wrong, CLASSES, s, master, scans_of_eyes.images, wrong)
        found[partners] = mean_precision(student, unseen)
    assert found["eye"] > 0.8 and found["label"] < 0.6


def test_a_teacher_of_more_classes_in_another_order_teaches_the_same(scans, teacher):
    """Columns are matched by name."""
    learned = rows(100, 2)
    turned = [2, 0, 1]
    about = {**teacher.arguments, "classes": [*(CLASSES[k] for k in turned), "CNV"]}
    network = Network(**{**about, "pretrained": False})
    network.embedding.load_state_dict(teacher.network.embedding.state_dict())
    weight, bias = teacher.network.head.weight[turned], teacher.network.head.bias[turned]
    network.head.weight.data[:3], network.head.bias.data[:3] = weight, bias
    for losses in ("cpm=2,csa=1", "kd=1"):
        s = settings_of(f"--losses={losses}", "--steps=5")
        made = [
            distil(learned.images, learned.labels, CLASSES, s, one, scans.images, scans.labels)
            for one in (teacher, Classifier(network, about))
        ]
        np.testing.assert_allclose(made[0](learned.images), made[1](learned.images), atol=1e-6)


def test_a_teacher_of_fewer_classes_says_nothing_of_the_others(scans):
    two = scans.take(scans.labels != 2)
    master = teach(two, CLASSES[:2], settings_of())
    learned = rows(100, 2)
    for losses in ("cpm=2,csa=1", "kd=1", "rkd=1"):
        student = distil(learned.images, learned.labels, CLASSES, settings_of(f"--losses={losses}"),
                         master, two.images, two.labels)  # fmt: skip
        assert np.isfinite(student(learned.images)).all()


@pytest.mark.parametrize("partners", ["label", "independent"])
def test_a_batch_without_a_shared_class_distils_nothing_and_counts_it(teacher, partners):
    s = settings_of("--losses=cpm=2,csa=1,kd=1,rkd=1,sp=1,fitnets=1", f"--partners={partners}")
    method = Distillation(s, CLASSES, teacher)
    own, theirs = (torch.from_numpy(rows(8, seed).images) for seed in (1, 2))
    record = method.step([(own, torch.full((8,), 0)), (theirs, torch.full((8,), 2))], OneProcess)
    assert record["shared"] == 0 and record["partners"] == 0
    assert all(record[f"loss_{name}"] == 0 for name in ("cpm", "csa", "kd", "rkd", "sp", "fitnets"))
    assert all(weight.isfinite().all() for weight in method.averaged.parameters())


def test_a_gate_shuts_out_a_teacher_that_knows_nothing(scans, teacher):
    learned = rows(200, 2)
    fool = Classifier(Network(**{**teacher.arguments, "pretrained": False}), teacher.arguments)
    s = settings_of("--losses=kd=1,cpm=2", "--gate=1")
    start = distil(learned.images, learned.labels, CLASSES, replace(s, losses=""))
    shared = {}
    for name, master, first in (("fool", fool, start), ("teacher", teacher, None)):
        torch.manual_seed(0)
        method = Distillation(s, CLASSES, master, start=first, shown=learned.images)
        shared[name] = np.mean([one["shared"] for one in steps_of(method, learned, scans, 3)])
    assert shared["fool"] == 0 and shared["teacher"] > 2


def test_momentum_remembers_and_goes_on(scans, teacher):
    learned = rows(60, 2)
    s = settings_of("--losses=cpm=2,csa=1", "--momentum=0.9")
    method = Distillation(s, CLASSES, teacher, shown=learned.images)
    steps_of(method, learned, scans, 1)
    before = {name: kept[0].clone() for name, kept in method.state_dict()["remembered"].items()}
    steps_of(method, rows(60, 3), scans, 1)
    after = {name: kept[0] for name, kept in method.state_dict()["remembered"].items()}
    moved = {n: float((after[n] - kept).norm() / kept.norm()) for n, kept in before.items()}
    assert set(moved) == {f"{who} {what}" for who in ("student", "teacher")
                          for what in ("features", "logits")}  # fmt: skip
    assert 0 < moved["teacher logits"] < 0.1  # a tenth of the way to another batch's means


def test_a_learning_teacher_learns_and_a_frozen_one_does_not(scans, teacher):
    learned = rows(60, 2)
    for learns in (0, 1):
        s = settings_of("--losses=kd=1", f"--teacher_learns={learns}")
        method = Distillation(s, CLASSES, teacher, shown=learned.images)
        before = method.teacher.head.weight.clone()
        (record,) = steps_of(method, learned, scans, 1)
        assert torch.equal(before, method.teacher.head.weight) != bool(learns)
        assert ("loss_teacher" in record) == bool(learns)
    assert torch.equal(teacher.network.head.weight, before)  # the one given is left alone


def test_a_gate_asks_a_learning_teacher_without_dropout(scans, teacher):
    s = settings_of("--losses=kd=1", "--gate=1", "--teacher_learns=1", "--dropout=0.5")
    method = Distillation(s, CLASSES, teacher)
    method.teacher.dropout.p = 0.5
    shown = torch.from_numpy(scans.images[:40])
    side, _ = method._ask_teacher(shown, one_hot(torch.from_numpy(scans.labels[:40]), 3),
                                  OneProcess)  # fmt: skip
    clean = method.teacher.head(method.teacher.embed(shown))
    torch.testing.assert_close(side.plain, clean)
    assert not torch.allclose(side.logits, clean) and not side.plain.requires_grad


def test_multilabel_students_learn_classes_that_the_teacher_lacks():
    def several(count, seed, patients):
        rng = np.random.default_rng(seed)
        labels = (rng.random((count, 3)) < 0.3).astype(np.float32)
        x = rng.normal(0, 1, (count, WIDTH)).astype(np.float32)
        x[:, :15] += 2 * np.repeat(labels, 5, 1)
        return Labelled(x, labels, np.array([f"{patients}{i}" for i in range(count)]))

    s = settings_of("--multilabel=1", "--losses=cpm=2,csa=1,kd=1")
    master = teach(replace(several(150, 1, "o"), labels=several(150, 1, "o").labels[:, :2]),
                   CLASSES[:2], s)  # fmt: skip
    learned, unseen, shown = several(200, 2, "d"), several(200, 3, "t"), several(150, 1, "o")
    student = distil(learned.images, learned.labels, CLASSES, s, master, shown.images, shown.labels)
    alone = distil(learned.images, learned.labels, CLASSES, replace(s, losses=""))
    assert mean_precision(student, unseen) > 0.85 * mean_precision(alone, unseen) > 0.6
    with pytest.raises(ValueError, match="dkd needs one label"):
        Distillation(settings_of("--multilabel=1", "--losses=dkd=1"), CLASSES, master)


def test_bad_settings_are_named(teacher):
    for given, words in (
        ("--losses=cmp=2", "no loss 'cmp'"), ("--losses=kd=lots", "weight of kd"),
        ("--partners=pairs", "partners='pairs'"), ("--losses=kd=-1", "weight of kd"),
        ("--losses=kd=nan", "weight of kd"), ("--temperature=0", "temperature=0.0"),
        ("--momentum=1", "momentum=1.0"), ("--losses=simkd=1,kd=1", "simkd stands alone"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Distillation(settings_of(given), CLASSES, teacher)
    with pytest.raises(ValueError, match="no class in common"):
        Distillation(settings_of(), ["GLAUCOMA", "MYOPIA"], teacher)
    with pytest.raises(ValueError, match="OCT_EMBEDDING"):
        Distillation(settings_of("--embedding=8"), CLASSES, teacher)
    with pytest.raises(ValueError, match="need a teacher"):
        Distillation(settings_of(), CLASSES, None)
    with pytest.raises(ValueError, match="direction='back'"):
        prepare_both(settings_of("--direction=back"))
    assert loss_weights("cpm=2, csa") == {"cpm": 2.0, "csa": 1.0} and loss_weights("") == {}


@pytest.mark.slow
def test_classes_of_one_side_only(tmp_path):
    """The teacher may lack a class, with a warning; the student may not; unmapped names say so."""
    given = ["--n_simulated=9", "--size=64", "--dfe_framing=full"]
    lines = ["path,label,patient,dataset,modality"]
    for label in ("NORMAL", "DRUSEN"):
        start = ("NORMAL", "DRUSEN").index(label) * 10_000 + 500
        lines += [f"simulated/{label}/P{n:05}_OD,{label},P{n:05},simulated,oct"
                  for n in range(start, start + 8)]  # fmt: skip
    (tmp_path / "oct.csv").write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match="DME: none in OCT"):
        domains = prepare_both(settings_of(*given, f"--data={tmp_path / 'oct.csv'}"))
    assert domains.classes == ("NORMAL", "DRUSEN", "DME")
    given += [f"--data={tmp_path / 'oct.csv'}"]
    with pytest.raises(ValueError, match="OCT_DATA: no DME"):
        prepare_both(settings_of(*given, "--direction=dfe_to_oct"))
    with pytest.raises(ValueError, match="OCT_DFE: no GLAUCOMA"):
        prepare_both(settings_of(*given, "--classes=NORMAL,GLAUCOMA"))


@pytest.mark.slow
def test_labels_of_several_findings(tmp_path):
    """Kept with multilabel; left out, with a word, where classes exclude each other."""
    lines = ["path,label,patient,dataset,modality"]
    for k, label in enumerate(("NORMAL", "DRUSEN", "DME", "DRUSEN;DME", "DME;CNV")):
        own = label.partition(";")[0]
        lines += [f"simulated/{own}/P{n:05}_OD,{label},P{n:05},simulated,dfe"
                  for n in range(100 * k + 500, 100 * k + 508)]  # fmt: skip
    (tmp_path / "dfe.csv").write_text("\n".join(lines) + "\n")
    given = ["--n_simulated=9", "--size=64", f"--dfe={tmp_path / 'dfe.csv'}"]
    domains = prepare_both(settings_of(*given, "--multilabel=1"), progress=False)
    found = images_of(domains, "dfe", multilabel=True)
    assert found.labels.sum(0).tolist() == [8, 16, 24] and found.labels.sum(1).max() == 2
    with pytest.warns(UserWarning, match="8 images of DFE show several conditions"):
        domains = prepare_both(settings_of(*given), progress=False)
    assert np.bincount(images_of(domains, "dfe").labels).tolist() == [8, 8, 16]


def test_eyes_are_named_by_patient_and_side():
    scans = [Scan(path, "dfe", "odir", "DR", patient) for path, patient in
             (("7_left.jpg", "7"), ("7_right.jpg", "7"), ("x.png", "block3"))]  # fmt: skip
    assert eyes_of(scans).tolist() == ["7 left", "7 right", "block3"]


def test_folds_keep_patients_together_and_a_class_of_one_patient_is_named():
    learned = rows(120, 2)
    place = folds_of(learned, CLASSES, 5)
    assert all(len(set(place[learned.patients == p])) == 1 for p in learned.patients)
    assert sorted(set(place)) == [0, 1, 2, 3, 4]
    for fold in range(5):
        assert set(learned.labels[place != fold]) == {0, 1, 2}
    one = learned.patients[learned.labels == 1][0]
    few = learned.take((learned.labels != 1) | (learned.patients == one))
    with pytest.raises(ValueError, match="AMD has 1 patient"):
        folds_of(few, CLASSES, 5)


def test_out_of_fold_sees_nothing_of_a_patient(scans):
    """Labels that cannot be learned from features cannot be known, unless a patient leaks."""
    s = replace(settings_of("--folds=3", "--seeds=2", "--steps=40"), losses="")
    learned = rows(160, 2, skill=0.0)
    rng = np.random.default_rng(0)
    own = rng.normal(0, 3, (80, WIDTH)).repeat(2, 0)  # a patient is recognised by its features
    learned = replace(learned, images=(learned.images * 0.1 + own).astype(np.float32))
    found = out_of_fold(learned, scans, CLASSES, s, [ALONE, "KD"], progress=False)
    assert found[ALONE].shape == (2, 160, 3)
    report = compared(learned, found, CLASSES, s)
    assert abs(report[ALONE]["auroc"]["value"] - 0.5) < 0.12
    assert report[ALONE]["gain"]["map"]["value"] == 0 and len(report["KD"]["seeds"]) == 2
    assert chosen_of(report) == "KD"
    with pytest.raises(ValueError, match="teach both sides"):
        out_of_fold(learned, learned, CLASSES, s, [ALONE])


def test_images_of_one_eye_answer_together():
    labels = np.array([0, 0, 1, 1, 2, 2])
    p = np.full((1, 6, 3), 0.2)
    p[0, np.arange(6), [0, 0, 1, 0, 2, 2]] = 0.6  # one scan of the second eye is misread
    p[0, 3] = [0.4, 0.35, 0.25]
    scans = Labelled(np.zeros((6, 1)), labels, np.array(list("aabbcc")))
    eyes = np.array(["a", "a", "b", "b", "c", "c"])
    one = compared(scans, {ALONE: p}, CLASSES, settings_of())[ALONE]
    together = compared(scans, {ALONE: p}, CLASSES, settings_of(), eyes=eyes)[ALONE]
    assert one["f1"]["value"] < 1 and together["f1"]["value"] == 1


@pytest.mark.slow
def test_a_teacher_that_lacks_a_class_is_screened_without_simkd(scans):
    s = settings_of("--folds=3", "--seeds=1", "--steps=5")
    assert "as set" in arms_of(replace(s, losses="kd=1,rkd=1"), CLASSES, CLASSES)
    two = scans.take(scans.labels != 1)
    found = out_of_fold(rows(120, 2), two, CLASSES, s, progress=False)
    assert "SimKD" not in found and len(found) == len(ARMS) - 2
    assert all(np.isfinite(p).all() and (p.sum(2) > 0).all() for p in found.values())
    with pytest.raises(ValueError, match="arm='SimKD'"):
        arms_of(replace(s, arm="SimKD"), CLASSES, ["NORMAL", "DME"])
    with pytest.raises(ValueError, match="arm='kd'"):
        arms_of(replace(s, arm="kd"), CLASSES, CLASSES)


def test_pairs_are_screened_with_a_teacher_of_the_same_folds(scans):
    """Features tell who an eye is and not what it has: a teacher who had seen it would know."""
    s = replace(settings_of("--folds=3", "--seeds=1", "--steps=40"), partners="eye")
    eyes = rows(160, 2, skill=0.0)
    found = out_of_fold(eyes, eyes, CLASSES, s, ["KD"], progress=False)
    report = diagnosis(eyes.labels, found["KD"], CLASSES, resamples=2)
    assert abs(report["auroc"]["value"] - 0.5) < 0.12
    with pytest.raises(ValueError, match="the same eyes"):
        out_of_fold(eyes, scans, CLASSES, s, ["KD"])


def test_settings_that_distil_nothing_are_no_arm_of_their_own():
    for losses, own in (("", False), ("none", False), ("cpm=2,csa=1", False), ("rkd=1", True)):
        assert ("as set" in arms_of(settings_of(f"--losses={losses}"), CLASSES, CLASSES)) == own


def test_every_arm_is_a_valid_setting(teacher):
    for name, changes in ARMS.items():
        s = replace(settings_of(), **changes)
        Distillation(s, CLASSES, teacher if s.losses else None)
        assert loss_weights(s.losses) or name in (ALONE, "label smoothing")


def test_the_pull_of_high_temperatures_levels_off(scans):
    found = pull_of(rows(100, 2), scans, CLASSES, settings_of(), temperatures=(8, 64, 128))
    for name in ("cpm", "csa", "kd"):
        assert found[name][128] == pytest.approx(found[name][64], rel=0.1) and found[name][64] > 0


class Cheap:
    """Stands in for Features: 256 mean grey values."""

    def __call__(self, images):
        pixels = torch.from_numpy(np.asarray(images)).float().mean(1, keepdim=True) / 255
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 16).flatten(1).numpy()


@pytest.mark.slow
def test_a_world_in_thirds_its_map_and_its_overlaps():
    world = simulate_world(Cheap(), patients=12, oct_shows=(1.0,), dfe_shows=(0.0, 1.0),
                           progress=False)  # fmt: skip
    parts = thirds(world)
    assert [world.labels[part].tolist() for part in parts] == [[0, 1, 2] * 4] * 3
    normal = world.labels == 0
    np.testing.assert_array_equal(world.dfe[0.0][normal], world.dfe[1.0][normal])
    assert (world.dfe[0.0][~normal] != world.dfe[1.0][~normal]).any(1).all()
    s = replace(settings_of("--seeds=1", "--steps=5"), partners="label")
    cells = gain_map(world, s, labelled=(2, 4), noise=(0.0, 0.5), progress=False)
    assert len(cells) == 2 * 2 * 2 * 4
    assert all(c["low"] <= c["gain"] <= c["high"] and 0 < c["alone"] <= 1 for c in cells)
    with pytest.raises(ValueError, match="4 eyes per class"):
        gain_map(world, s, labelled=(5,))
    assert list(overlaps(world, s)) == ["OCT shows 1, DFE 1"]


def test_grad_cam_finds_what_the_class_is_made_of():
    """A network whose last map is the image's brightness looks at the bright spot."""
    network = Network("test_efficientnet", 64, CLASSES)
    network.backbone.forward_features = lambda x: torch.nn.functional.avg_pool2d(x[:, :1], 8)
    network.backbone.forward_head = lambda maps, pre_logits: maps.mean((2, 3))
    network.head = torch.nn.Linear(1, 3)
    network.head.weight.data = torch.tensor([[1.0], [-1.0], [0.0]])
    images = -torch.ones(2, 3, 64, 64)
    images[0, :, 8:16, 40:48] = images[1, :, 48:56, 8:16] = 1
    about = {"classes": CLASSES, "multilabel": False}
    found = grad_cam(Classifier(network, about), images, 0)
    assert found.shape == (2, 64, 64) and found.amax((1, 2)).tolist() == [1, 1]
    for one, (row, column) in zip(found, ((12, 44), (52, 12))):
        place = int(one.argmax())
        assert abs(place // 64 - row) < 5 and abs(place % 64 - column) < 5
    assert grad_cam(Classifier(network, about), images, 2).max() == 0
    levels = ((images + 1) * 127.5).byte()
    torch.testing.assert_close(grad_cam(Classifier(network, about), levels, 0), found)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050", "test_vit"])
def test_any_backbone_of_timm_will_do(backbone):
    s = settings_of(f"--backbone={backbone}", "--losses=cpm=2,csa=1,kd=1", "--size=160",
                    "--steps=1", "--batch_size=4", "--precision=fp32")  # fmt: skip
    master = teach(rows(60, 1), CLASSES, settings_of())
    photographs = np.random.default_rng(0).integers(0, 256, (6, 3, 160, 160), np.uint8)
    student = distil(photographs, np.arange(6) % 3, CLASSES, s, master, rows(60, 1).images,
                     rows(60, 1).labels)  # fmt: skip
    assert student(photographs).shape == (6, 3)
    images = torch.from_numpy(photographs).float() / 127.5 - 1
    if backbone == "test_vit":
        with pytest.raises(ValueError, match="test_vit has no feature maps"):
            grad_cam(student, images, 0)
    else:
        assert grad_cam(student, images, 0).shape == (6, 160, 160)


@pytest.mark.slow
def test_a_head_start_and_images_end_to_end(tmp_path):
    """The real path, small: images, a head start, a student that is saved and asked again."""
    s = settings_of("--n_simulated=9", "--size=64", "--classes=NORMAL,DME", "--steps=3",
                    "--screen_steps=20", "--precision=fp32")  # fmt: skip
    domains = prepare_both(s, progress=False)
    pupils, masters = images_of(domains, "dfe", "train"), images_of(domains, "oct", "train")
    assert not set(pupils.patients) & set(masters.patients)
    start = head_start(pupils, domains.classes, s)
    master = teach(masters, domains.classes, s, start=head_start(masters, domains.classes, s))
    student = distil(pupils.images, pupils.labels, domains.classes, s, master,
                     masters.images, masters.labels, start=start)  # fmt: skip
    student.save(tmp_path / "classifier.safetensors")
    again = load_classifier(tmp_path)
    np.testing.assert_array_equal(again(pupils.images), student(pupils.images))
    assert not np.allclose(start(pupils.images), student(pupils.images))
    found = class_similarities(student, pupils, domains.classes)
    assert found.shape == (2, 2) and found[0, 0] == pytest.approx(1)


def test_one_hot_knows_of_no_label():
    assert one_hot(torch.tensor([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]
