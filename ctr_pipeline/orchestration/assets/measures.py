"""What the evaluation measures of a retrain: by split, looked at otherwise, beside other models, by day, by search."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import SCORED_SPLITS, RetrainFiles
from ctr_pipeline.orchestration.assets.slices import category_names, category_place
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.ranking import RANKING_SCORE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctr_pipeline.datasets import PackedDataset, PackedSplit, Tables
    from ctr_pipeline.evaluation import RowGroups, TaskMetrics
    from ctr_pipeline.evaluation.slice_search import Feature
    from ctr_pipeline.serving.ranking_score import RankingScore

TEST = "test"

ByTask = Mapping[str, "TaskMetrics"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Measures:
    """Measures one retrain. The arrays of the test are read once."""

    spec: Spec
    paths: RetrainPaths
    tables: "Tables"
    """The tables at the versions that were packed: they say which session a row is of."""
    champion: "NDArray[np.float64] | None"
    """[N, T] calibrated logits of the champion on the test rows; None without one."""

    def splits(self) -> "dict[str, dict[str, TaskMetrics]]":
        """Of the model as it is served, by task and split."""
        found: dict[str, dict[str, TaskMetrics]] = {task: {} for task in self._tasks}
        for split in SCORED_SPLITS:
            logits, belongs = self._files.calibrated(split, self._tasks), self._belongs(split)
            # The slice that the calibrators were fitted on cannot see their error.
            known = {} if split == "calibration" else self._calibrated_on()
            for task, metrics in self._measured(logits, self._dataset.splits[split], belongs, known).items():
                found[task][split] = metrics
        return found

    def otherwise(self) -> dict[str, ByTask]:
        """Metrics on the test rows by what is looked at, and task.

        ``uncalibrated``: the model as it is served, without its calibrators. ``logged_position``: scores that know the
        position, where the model learns what it does. ``random_traffic``: the model as it is served, on the rows whose order
        was random, where there are some, and ``other_traffic``, on the others. ``ranking_score``: how `serving.score` ranks,
        where its bids are features and so known of the test rows.
        """
        packed, taught = self._test, self._calibrated_on()
        found: dict[str, ByTask] = {"uncalibrated": self._measured(self._files.scores(TEST), packed, self._groups, {})}
        if True in self._files.position_modes:
            known = self._files.calibrated(TEST, self._tasks, logged_position=True)
            logged = self._calibrated_on(logged_position=True)
            found["logged_position"] = self._measured(known, packed, self._groups, logged)
        if packed.random.any():
            for name, rows in (("random_traffic", packed.random), ("other_traffic", ~packed.random)):
                found[name] = self._measured(self._logits, packed, self._groups, taught, rows)
        if ranked := self._ranking_score():
            found[RANKING_SCORE] = ranked
        return found

    def references(self) -> dict[str, ByTask]:
        """Metrics on the test rows of other models, by their name and task.

        ``base_rate``: a model that predicts the rate of the training rows. ``position_only``: one that knows the logged
        position alone. ``champion``: the champion. Only those that there are.
        """
        import numpy as np
        from scipy import special

        from ctr_pipeline.evaluation import position_only

        train, test = self._dataset.splits["train"], self._test
        rates = np.full(test.labels.shape, np.nan)
        positions: NDArray[np.float64] = np.full(test.labels.shape, np.nan)
        for column in range(len(self._tasks)):
            labels = train.labels[:, column]
            settled = labels[labels >= 0]
            if 0 < np.count_nonzero(settled) < len(settled):
                rates[:, column] = special.logit(np.mean(settled))
            known = position_only(train.position, labels, test.position)
            if known is not None:
                positions[:, column] = known
        models = {"base_rate": rates, "position_only": positions, "champion": self.champion}
        measured = {
            name: self._measured(logits, test, self._groups, {})
            for name, logits in models.items()
            if logits is not None
        }
        return {name: of for name, of in measured.items() if of}

    def by_day(self) -> dict[str, list[dict[str, Any]]]:
        """By task the days of the test."""
        from ctr_pipeline.evaluation.by_day import metrics_by_day

        taught, logits, test = self._calibrated_on(), self._logits, self._test

        def measured(column: int) -> list[dict[str, Any]]:
            days = metrics_by_day(
                logits[:, column],
                test.labels[:, column],
                test.ts,
                test.user,
                None if self.champion is None else self.champion[:, column],
                seed=self.spec.seed,
                calibrated_on=taught[self._tasks[column]],
            )
            return [day.to_json() for day in days]

        return self._each_task(measured)

    def searched_slices(self) -> dict[str, dict[str, Any]]:
        """By task what a search over the features and their pairs found, with the position that was logged."""
        from ctr_pipeline.evaluation.slice_search import search_slices

        logged = True in self._files.position_modes
        logits = self._files.calibrated(TEST, self._tasks, logged_position=True) if logged else self._logits
        features, champion, served = self._features(), self.champion, self._logits

        def searched(column: int) -> dict[str, Any]:
            return search_slices(
                logits[:, column],
                self._test.labels[:, column],
                features,
                self._test.user,
                seed=self.spec.seed,
                compared=None if champion is None else (served[:, column], champion[:, column]),
            ).to_json()

        return self._each_task(searched)

    def revenue(self) -> dict[str, dict[str, Any]]:
        """What the ranking score earns of the test rows, and of those in random order; empty where it cannot be told."""
        import numpy as np

        from ctr_pipeline.evaluation.ranking_revenue import ranking_revenue

        found = self._score()
        groups, key = self._groups.groups, self._groups.group_key
        if groups is None:
            groups, key = self._groups.sessions, "session"
        if found is None or groups is None:
            return {}
        ranking, bids = found
        labels = np.where(self._test.labels < 0, np.nan, self._test.labels.astype(np.float64))
        unused = [n for n in range(len(self._tasks)) if not any(weights[n] for weights in ranking.weights.values())]
        labels[:, unused] = 0.0
        values, scores = ranking.scores(labels, bids), self._ranked(ranking, bids)
        content: dict[str, dict[str, Any]] = {}
        for name, rows in (("all", slice(None)), ("random_traffic", self._test.random)):
            if isinstance(rows, slice) or rows.any():
                measured = ranking_revenue(
                    scores[rows], values[rows], self._test.position[rows], groups[rows], self._test.user[rows], key=key
                )
                content |= {} if measured is None else {name: measured.to_json()}
        return content

    def _calibrated_on(self, *, logged_position: bool = False) -> dict[str, float]:
        """By task how many independent outcomes the calibrator was fitted on."""
        from ctr_pipeline.evaluation.overdispersion import effective_outcomes

        split = self._dataset.splits["calibration"]
        logits = self._files.calibrated("calibration", self._tasks, logged_position=logged_position)
        return {
            task: effective_outcomes(logits[:, column], split.labels[:, column], split.user)
            for column, task in enumerate(self._tasks)
        }

    @cached_property
    def _files(self) -> RetrainFiles:
        return RetrainFiles(self.paths)

    @cached_property
    def _dataset(self) -> "PackedDataset":
        from ctr_pipeline.datasets import PackedDataset

        return PackedDataset.open(self.paths.packed)

    @property
    def _tasks(self) -> list[str]:
        return [task.name for task in self.spec.tasks]

    @property
    def _test(self) -> "PackedSplit":
        return self._dataset.splits[TEST]

    @cached_property
    def _logits(self) -> "NDArray[np.float64]":
        return self._files.calibrated(TEST, self._tasks)

    @cached_property
    def _groups(self) -> "RowGroups":
        return self._belongs(TEST)

    def _belongs(self, split: str) -> "RowGroups":
        from ctr_pipeline.datasets.scored_rows import row_keys
        from ctr_pipeline.evaluation import RowGroups

        packed, declared = self._dataset.splits[split], self.spec.evaluation
        keys = row_keys(self._files.examples().bounds, split, self.tables.impressions, packed.ts)
        return RowGroups(
            clusters=packed.user,
            cluster_key=declared.cluster_by or ("user" if "user" in keys else "session"),
            groups=packed.group,
            group_key=declared.group_by or "group",
            sessions=keys.get("session"),
        )

    def _measured(
        self,
        logits: "NDArray[np.floating[Any]]",
        packed: "PackedSplit",
        belongs: "RowGroups",
        taught: Mapping[str, float],
        rows: "NDArray[np.bool_] | None" = None,
    ) -> "dict[str, TaskMetrics]":
        """By task; one whose logits are not known is left out."""
        import numpy as np

        from ctr_pipeline.evaluation import evaluate_rows
        from ctr_pipeline.evaluation.decision_value import ActionCosts

        costs = {of.task: ActionCosts(cost=of.cost, value=of.value) for of in self.spec.evaluation.costs}
        own = belongs if rows is None else belongs.of(rows)

        def measured(column: int) -> "TaskMetrics | None":
            task, scores, labels = self._tasks[column], logits[:, column], packed.labels[:, column]
            if len(scores) and np.isnan(scores).all():
                return None
            return evaluate_rows(
                scores if rows is None else scores[rows],
                labels if rows is None else labels[rows],
                own,
                seed=self.spec.seed,
                # Where the identity was chosen too, the slice could have seen an error of this size only.
                calibrated_on=taught.get(task, 0.0),
                costs=costs.get(task),
            )

        return {task: metrics for task, metrics in self._each_task(measured).items() if metrics is not None}

    def _each_task(self, measure: Callable[[int], Found]) -> dict[str, Found]:
        """By task what ``measure`` finds of its column, two tasks at a time: more would hold more rows in memory."""
        with ThreadPoolExecutor(max_workers=2) as threads:
            return dict(zip(self._tasks, threads.map(measure, range(len(self._tasks))), strict=True))

    def _score(self) -> "tuple[RankingScore, dict[str, NDArray[Any]]] | None":
        """The ranking score with its bids on the test rows; None where there is none, or a bid is no feature."""
        from ctr_pipeline.serving.ranking_score import RankingScore

        if self.spec.serving.score is None:
            return None
        ranking, places = RankingScore.of(self.spec.serving.score, self._tasks), self._dataset.layout.number_places
        if any(bid not in places for bid in ranking.bids):
            return None
        return ranking, {bid: self._test.numeric[:, places[bid].start] for bid in ranking.bids}

    def _ranked(self, ranking: "RankingScore", bids: "Mapping[str, NDArray[Any]]") -> "NDArray[np.float64]":
        from scipy import special

        return ranking.scores(special.expit(self._logits), bids)

    def _ranking_score(self) -> "dict[str, TaskMetrics]":
        """By task of `serving.score`, how that ranks the test rows; empty where that cannot be told."""
        from ctr_pipeline.evaluation import evaluate_ranking

        found = self._score()
        if found is None or self.spec.serving.score is None:
            return {}
        scores, groups, ranked = self._ranked(*found), self._groups, {term.task for term in self.spec.serving.score}

        def measured(column: int) -> "TaskMetrics | None":
            if self._tasks[column] not in ranked:
                return None
            return evaluate_ranking(scores, self._test.labels[:, column], groups, seed=self.spec.seed)

        return {task: metrics for task, metrics in self._each_task(measured).items() if metrics is not None}

    def _features(self) -> "dict[str, Feature]":
        """What slices are searched by: categories of one value in the clear, quarters of numbers, position and traffic."""
        import numpy as np

        from ctr_pipeline.evaluation.declared_slices import category_texts, interval_names, interval_places
        from ctr_pipeline.evaluation.slice_search import Feature

        test, layout = self._test, self._dataset.layout
        found = {}
        for name in self.spec.features.open_categories(self.spec.private_columns):
            place = category_place(layout, name)
            values = category_texts(layout.id_columns[place].rows, category_names(self.paths, layout, name))
            found[name] = Feature(codes=test.ids[:, place], values=values)
        for column, number in enumerate(layout.numeric):
            own = test.numeric[:, column]
            if number.is_element or np.isnan(own).all():
                continue
            edges = sorted({float(edge) for edge in np.nanquantile(own, (0.25, 0.5, 0.75))})
            found[number.name] = Feature(
                codes=interval_places(own, edges).astype(np.int8), values=interval_names(edges)
            )
        slots = [str(slot) for slot in range(int(test.position.max(initial=0)) + 1)]
        return found | {
            "position": Feature(codes=test.position, values=["not logged", *slots[1:]]),
            "traffic": Feature(codes=test.random.astype(np.int8), values=["other", "random"]),
        }
