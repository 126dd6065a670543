use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Groups by what a client would send, and a server that refuses some of them and is down now and then.
struct World {
    state: Bisect,
    /// Number of each pending row's group, where it has one, and whether it is kept back.
    rows: Vec<Option<(i64, bool)>>,
    pending: BTreeSet<usize>,
    refused: BTreeSet<usize>,
    bad: BTreeSet<usize>,
    commits: usize,
}

impl World {
    fn new(n: usize, bad: &[usize]) -> Self {
        Self {
            state: Bisect::default(),
            rows: vec![None; n],
            pending: (0..n).collect(),
            refused: BTreeSet::new(),
            bad: bad.iter().copied().collect(),
            commits: 0,
        }
    }

    fn rows_of(&self, take: Take) -> Vec<usize> {
        let takes = |mark: Option<(i64, bool)>| match (take, mark) {
            (Take::Rest, m) => m.is_none_or(|(_, kept)| !kept),
            (Take::Range(a, b), Some((g, _))) => (a..b).contains(&g),
            (Take::Kept(k), Some((g, kept))) => kept && g == k,
            _ => false,
        };
        self.pending.iter().copied().filter(|r| takes(self.rows[*r])).collect()
    }

    /// One sync: bundles until nothing is pending or it is not worth going on. True where all is done.
    fn sync(&mut self, down: &mut dyn FnMut(usize) -> bool) -> bool {
        while !self.pending.is_empty() {
            let mut chosen = None;
            while chosen.is_none() {
                let take = self
                    .state
                    .choices()
                    .into_iter()
                    .find(|t| matches!(t, Take::Range(..)) || !self.rows_of(*t).is_empty());
                let take = take.expect("pending rows are in some choice");
                let rows = self.rows_of(take);
                if rows.is_empty() {
                    self.state.nothing_in(take);
                } else {
                    chosen = Some((take, rows));
                }
            }
            let (take, rows) = chosen.expect("just made");
            self.commits += 1;
            if !down(self.commits) && rows.iter().all(|r| !self.bad.contains(r)) {
                rows.iter().for_each(|r| assert!(self.pending.remove(r)));
                for g in self.state.committed(take) {
                    let gone: Vec<usize> =
                        self.pending.iter().copied().filter(|r| self.rows[*r] == Some((g, true))).collect();
                    for r in gone {
                        self.pending.remove(&r);
                        self.refused.insert(r);
                    }
                }
                if self.state.is_idle() {
                    self.state = Bisect::default();
                    self.rows.fill(None);
                }
            } else {
                let Failed { keep, go_on } = if take == Take::Rest {
                    let first = self.state.next_group();
                    for (n, r) in rows.iter().enumerate() {
                        self.rows[*r] = Some((first + n as i64, false));
                    }
                    self.state.rest_failed(rows.len() as i64, self.state.wanted_witnesses(rows.len() as i64))
                } else {
                    self.state.failed(take)
                };
                for row in self.rows.iter_mut().flatten() {
                    row.1 |= keep.contains(&row.0);
                }
                if !go_on {
                    return false;
                }
            }
        }
        true
    }
}

fn bound(n: usize, bad: usize) -> usize {
    2 * bad * (n.ilog2() as usize + 1) + 6
}

#[test]
fn one_bad_row_is_found_wherever_it_is() {
    for n in [4usize, 5, 7, 100, 1000] {
        for bad in 0..n {
            let mut w = World::new(n, &[bad]);
            let done = w.sync(&mut |_| false);
            // A witness itself: nothing is left to commit after it. The next writes of the app prove it.
            assert!(done || bad + 2 >= n, "{bad} of {n}");
            for more in 0..3 {
                w.rows.push(None);
                w.pending.insert(n + more);
                w.sync(&mut |_| false);
            }
            assert_eq!(w.refused, BTreeSet::from([bad]), "{bad} of {n}");
            assert!(w.commits <= bound(n, 1) + 3, "{} commits for {bad} of {n}", w.commits);
        }
    }
}

fn suspect(group: i64, strikes: u8) -> Suspect {
    Suspect { group, strikes }
}

#[test]
fn what_may_be_taken() {
    use Take::{Kept, Range, Rest};
    let state = |up, suspects: &[Suspect]| Bisect {
        up,
        suspects: suspects.to_vec(),
        witnesses: vec![8, 9],
        ..Bisect::default()
    };
    let searched = Bisect { low: 4, high: 7, ..state(true, &[suspect(3, 0), suspect(2, 2)]) };
    for (state, expected) in [
        (state(false, &[]), &[Rest, Kept(8), Kept(9)][..]),
        (state(true, &[]), &[Rest, Kept(8), Kept(9)]),
        (state(false, &[suspect(3, 0)]), &[Kept(8), Rest, Kept(8), Kept(9), Kept(3)]),
        (state(true, &[suspect(3, 1)]), &[Kept(3), Rest, Kept(8), Kept(9), Kept(3)]),
        (state(true, &[suspect(3, 2)]), &[Rest, Kept(8), Kept(9), Kept(3)]),
        (searched.clone(), &[Kept(3), Range(4, 6)]),
        (Bisect { up: false, ..searched }, &[Range(4, 6)]),
    ] {
        assert_eq!(state.choices(), expected, "{state:?}");
    }
}

#[test]
fn when_there_is_nothing_to_search_for() {
    let idle = Bisect::default();
    for (state, expected) in [
        (idle.clone(), true),
        (Bisect { next: 9, up: true, witnesses: vec![8], ..idle.clone() }, true),
        (Bisect { misses: 1, ..idle.clone() }, false),
        (Bisect { high: 1, ..idle.clone() }, false),
        (Bisect { suspects: vec![suspect(3, 2)], ..idle }, false),
    ] {
        assert_eq!(state.is_idle(), expected, "{state:?}");
    }
}

#[test]
fn what_has_no_rows_says_nothing_of_the_server() {
    let mut state =
        Bisect { low: 4, high: 8, witnesses: vec![8, 9], suspects: vec![suspect(3, 1)], ..Bisect::default() };
    assert_eq!(state.taken(), Take::Rest);
    state.take(Take::Kept(3));
    assert_eq!(state.taken(), Take::Kept(3));
    let before = state.clone();
    state.nothing_in(Take::Rest);
    assert_eq!(state, before);
    state.nothing_in(Take::Range(4, 6));
    state.nothing_in(Take::Kept(9));
    state.nothing_in(Take::Kept(3));
    assert_eq!(state, Bisect { low: 6, witnesses: vec![8], suspects: vec![], ..before });
}

#[test]
fn how_many_witnesses() {
    for (witnesses, expected) in [(0, [0, 0, 0, 1, 2, 2]), (1, [0, 0, 0, 0, 1, 1]), (2, [0; 6]), (3, [0; 6])] {
        let state = Bisect { witnesses: vec![7; witnesses], ..Bisect::default() };
        let wanted: Vec<i64> = [0, 1, 2, 3, 4, 100].into_iter().map(|groups| state.wanted_witnesses(groups)).collect();
        assert_eq!(wanted, expected, "beside {witnesses}");
    }
}

#[test]
fn when_a_lone_failure_counts() {
    let single = Bisect { low: 1, high: 2, whole: true, up: true, ..Bisect::default() };
    for (mut state, take, counts) in [
        (single.clone(), Take::Range(1, 2), true),
        (Bisect { up: false, ..single.clone() }, Take::Range(1, 2), false),
        (Bisect { whole: false, ..single.clone() }, Take::Range(1, 2), false),
        (Bisect { high: 3, ..single.clone() }, Take::Range(1, 2), false),
        (Bisect { high: 3, ..single }, Take::Range(1, 3), false),
    ] {
        let was = state.clone();
        state.failed(take);
        assert_eq!(state.up, counts, "{was:?}");
        if take == Take::Range(1, 2) {
            assert_eq!(state.suspects, [suspect(1, u8::from(counts))], "{was:?}");
        }
    }
}

/// As many failures in a row as a search could have, and a few more.
#[test]
fn when_it_is_not_worth_going_on() {
    for (groups, most) in [(0, 8), (2, 8), (16, 14), (1000, 24)] {
        for (misses, expected) in [(most, true), (most + 1, false)] {
            let mut state = Bisect { groups, misses, ..Bisect::default() };
            assert_eq!(state.failed(Take::Rest).go_on, expected, "{misses} misses of {groups} groups");
        }
    }
}

#[test]
fn a_row_alone_is_never_called_refused() {
    let mut w = World::new(1, &[0]);
    for _ in 0..50 {
        assert!(!w.sync(&mut |_| false));
    }
    assert!(w.refused.is_empty());
    assert_eq!(w.commits, 50, "one try a sync");
}

#[test]
fn while_the_server_fails_for_everything_few_bundles_are_sent() {
    let mut w = World::new(1000, &[]);
    for _ in 0..20 {
        w.sync(&mut |_| true);
    }
    assert!(w.commits <= 20 + 2 * 13, "{}", w.commits);
    assert!(w.sync(&mut |_| false));
    assert!(w.refused.is_empty());
}

proptest! {
    /// One outage, beginning and ending anywhere, refuses nobody who is not bad; every bad row is found.
    #[test]
    fn an_outage_is_no_refusal(
        n in 3usize..60,
        bad in proptest::collection::btree_set(0usize..60, 0..5),
        begins in 1usize..60,
        lasts in 0usize..40,
    ) {
        let bad: Vec<usize> = bad.into_iter().filter(|b| *b < n).collect();
        let mut w = World::new(n, &bad);
        let mut down = |c: usize| (begins..begins + lasts).contains(&c);
        // The app goes on writing, so that there is always something to commit.
        for _ in 0..lasts + 200 {
            w.sync(&mut down);
            if w.commits >= begins + lasts && w.pending.is_empty() {
                break;
            }
            w.rows.push(None);
            w.pending.insert(w.rows.len() - 1);
        }
        prop_assert!(w.refused.iter().all(|r| bad.contains(r)), "{:?} refused, {:?} bad", w.refused, bad);
        prop_assert!(w.pending.is_empty() && w.refused.len() == bad.len(), "{:?} pending, {:?}", w.pending, w.state);
    }

    /// Without an outage the bundles are bounded, and every bad row is found: at once, but for those that
    /// nothing is left to speak against. They wait for the next writes of the app.
    #[test]
    fn the_search_is_bounded(n in 8usize..400, bad in proptest::collection::btree_set(0usize..400, 1..8)) {
        let bad: Vec<usize> = bad.into_iter().filter(|b| *b < n).collect();
        let mut w = World::new(n, &bad);
        if !w.sync(&mut |_| false) {
            prop_assert!(w.pending.len() <= 3, "{:?}", w.state);
            for _ in 0..3 {
                w.rows.push(None);
                w.pending.insert(w.rows.len() - 1);
                w.sync(&mut |_| false);
            }
        }
        prop_assert_eq!(w.refused.iter().copied().collect::<Vec<_>>(), bad);
        prop_assert!(w.commits <= bound(n, w.bad.len()), "{} commits for {} of {n}", w.commits, w.bad.len());
    }
}
