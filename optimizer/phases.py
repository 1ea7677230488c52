"""The phases, in order, each with the reason for its place."""

from __future__ import annotations

from scalops.optimizer.rewriter import Phase
from scalops.optimizer.rules.associate_products import associate_products
from scalops.optimizer.rules.cache_invariants import cache_invariants
from scalops.optimizer.rules.cache_shared import cache_shared
from scalops.optimizer.rules.collapse_duplicates import collapse_duplicates
from scalops.optimizer.rules.contract_distances import contract_distances
from scalops.optimizer.rules.contract_grams import contract_grams
from scalops.optimizer.rules.contract_groups import contract_groups
from scalops.optimizer.rules.contract_one_hots import contract_one_hots
from scalops.optimizer.rules.contract_products import contract_products
from scalops.optimizer.rules.contract_squares import contract_squares
from scalops.optimizer.rules.contract_terms import contract_terms
from scalops.optimizer.rules.expand_powers import expand_powers
from scalops.optimizer.rules.fold_constants import fold_constants
from scalops.optimizer.rules.fuse_map_reduce_update import fuse_map_reduce_update
from scalops.optimizer.rules.hoist_invariants import hoist_invariants
from scalops.optimizer.rules.index_joins import index_joins
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_filters import merge_filters
from scalops.optimizer.rules.merge_groups import merge_groups
from scalops.optimizer.rules.merge_maps import merge_maps
from scalops.optimizer.rules.prune_scan import prune_scan
from scalops.optimizer.rules.push_columns_into_scan import push_columns_into_scan
from scalops.optimizer.rules.push_filter_down import push_filter_down
from scalops.optimizer.rules.push_filter_into_joins import push_filter_into_joins
from scalops.optimizer.rules.push_limit_down import push_limit_down
from scalops.optimizer.rules.recognize_outers import recognize_outers
from scalops.optimizer.rules.share_common_expressions import share_common_expressions
from scalops.optimizer.rules.split_distances import split_distances
from scalops.optimizer.rules.turn_suffix_sums import turn_suffix_sums
from scalops.optimizer.rules.weigh_cumulative_sums import weigh_cumulative_sums

# Filters and limits before maps: one that moved down leaves two maps side by side.
_SIMPLIFY = (
    fold_constants,
    expand_powers,
    merge_filters,
    push_filter_down,
    push_limit_down,
    merge_maps,
    push_filter_into_joins,
)

PHASES = (
    # Before anything else: the total is one more reader of the table, which may have to be shared.
    Phase("running aggregates", (turn_suffix_sums,)),
    # First: the boundary between what a loop changes and what it does not. Later phases merge
    # maps on either side of it, never across, so invariant work is not pulled into the loop.
    # Tables shared by several passes likewise, while they can still be told apart.
    Phase("invariants", (cache_invariants, cache_shared)),
    Phase("simplify", _SIMPLIFY),
    # After simplify: folds of one table now name the same input. Arrays of groups first: they
    # become folds of the groups' own table.
    Phase("aggregates", (contract_groups, merge_aggregates, merge_groups, weigh_cumulative_sums)),
    # After aggregates: folds of one table say together what is read of it. Before contractions and
    # hoisting: a weight is one more factor of a product, and what is hoisted is computed for
    # distinct records alone.
    Phase("duplicates", (collapse_duplicates,)),
    # After simplify, which shows what decides by a distance. Before contractions, whose products
    # the distances of a record may be factors of.
    Phase("distances", (split_distances, contract_distances, contract_squares)),
    # Before hoisting: a scaled vector hoisted as a column would hide the product, and would
    # double the cache.
    Phase(
        "contractions",
        (
            recognize_outers,
            associate_products,
            contract_products,
            contract_one_hots,
            contract_grams,
            contract_terms,
        ),
    ),
    # After contractions: what is left of the loop's record expressions is what it computes.
    Phase("hoist", (hoist_invariants,)),
    # Hoisted columns stand above the table that a cache holds: merge them into one map.
    Phase("simplify again", _SIMPLIFY),
    # Before columns: a shared expression may be the only reader of a column.
    Phase("share", (share_common_expressions,)),
    Phase("columns", (push_columns_into_scan,)),
    # When filters stand where they stay: scans of one table are the same until here.
    Phase("pruning", (prune_scan,)),
    # When the rules before have done what they do with joins, groups and filters: one that is
    # marked is no longer equal to one that is not. Before fusing, which hides the body's tables.
    Phase("indexes", (index_joins,)),
    # Last: what is still one fold of one table is one operator.
    Phase("fuse", (fuse_map_reduce_update,)),
)
