"""A probe: do these scans teach a linear head what tells classes apart in patients?"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTH = 1e-3  # 1 / the weight of the head's penalty; of features in standard deviations


def probe_auroc(features, labels, unseen, truth) -> float:
    """AUROC of a linear head that learned ``labels`` (N,) from ``features`` (N, d) and is asked
    about ``unseen`` (M, d), whose classes are ``truth`` (M,): the mean over pairs of classes.

    Of several classes each pair is scored by the difference of its two scores (Hand & Till, Machine
    Learning 2001, equation 7). ValueError with fewer than two classes on either side.
    """
    names = sorted(set(labels) & set(truth))
    if len(names) < 2:
        both = ", ".join(map(str, names)) or "none"
        raise ValueError(f"A probe needs two classes on both sides, not {both}")
    head = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    head.fit(features, labels)
    scores = np.atleast_2d(head.decision_function(unseen).T).T
    if scores.shape[1] == 1:
        scores = np.concatenate([-scores, scores], 1)
    column = {name: scores[:, k] for k, name in enumerate(head.classes_)}
    truth = np.asarray(truth)
    return float(np.mean([
        roc_auc_score(truth[two] == b, (column[b] - column[a])[two])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for two in [np.isin(truth, (a, b))]
    ]))  # fmt: skip
