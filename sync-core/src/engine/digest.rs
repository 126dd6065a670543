//! Two ends find the rows in which they differ: ranges of keys are compared by digest, and only those
//! that differ are cut further, until they are small enough to be compared row by row.

/// Rows `after + 1 ..= until` of one end's sorted rows. It holds every key above `lower` (every key,
/// where there is none) up to that of its last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<K> {
    /// Rows before it.
    pub after: i64,
    /// Its last row.
    pub until: i64,
    /// The last key before it.
    pub lower: Option<K>,
}

impl<K> Span<K> {
    /// How many rows it has.
    #[must_use]
    pub const fn rows(&self) -> i64 {
        self.until - self.after
    }
}

/// A part of a span, as the comparison of both ends' digests left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<K> {
    /// Its last row.
    pub until: i64,
    /// That row's key.
    pub upper: K,
    /// Whether both ends have the same digest.
    pub equal: bool,
}

/// What a comparison of a span yields: `None` where no digest is to be had.
pub type Parts<K> = Option<Vec<Part<K>>>;

/// Both ends, as [`descend`] asks them.
pub trait Ends {
    /// A row's key.
    type Key: Clone;
    /// Why an end fails.
    type Error;

    /// Cuts a span into at least two parts, in order and without a gap, and compares their digests.
    /// Where no digest is to be had, the rows themselves are compared.
    ///
    /// # Errors
    /// The ends'.
    fn compare(&mut self, span: &Span<Self::Key>) -> Result<Parts<Self::Key>, Self::Error>;

    /// Compares a span row by row. Returns the key of its last row.
    ///
    /// # Errors
    /// The ends'.
    fn rows(&mut self, span: &Span<Self::Key>) -> Result<Self::Key, Self::Error>;
}

/// How far [`descend`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Rows that one comparison of digests may cover; at least 1.
    pub most: i64,
    /// Spans up to this many rows are compared row by row; at least 1.
    pub leaf: i64,
}

/// Compares rows `after + 1 ..= until` of one table.
///
/// With *d* differing rows of *n*, about *d* · log *n* spans are compared.
///
/// # Errors
/// The ends'.
pub fn descend<E: Ends>(ends: &mut E, after: i64, until: i64, reach: Reach) -> Result<(), E::Error> {
    let mut span = Span { after, until: after, lower: None };
    while span.after < until {
        span.until = until.min(span.after.saturating_add(reach.most.max(1)));
        let last = visit(ends, &span, reach.leaf.max(1))?;
        span = Span { after: span.until, until: span.until, lower: Some(last) };
    }
    Ok(())
}

fn visit<E: Ends>(ends: &mut E, span: &Span<E::Key>, leaf: i64) -> Result<E::Key, E::Error> {
    if span.rows() <= leaf {
        return ends.rows(span);
    }
    let Some(parts) = ends.compare(span)? else { return ends.rows(span) };
    let mut next = Span { after: span.after, until: span.after, lower: span.lower.clone() };
    // Small neighbours that differ are compared together.
    let mut small: Option<Span<E::Key>> = None;
    for part in parts {
        next.until = part.until;
        let is_small = !part.equal && next.rows() <= leaf;
        if is_small {
            small.get_or_insert_with(|| next.clone()).until = part.until;
        } else {
            if let Some(s) = small.take() {
                ends.rows(&s)?;
            }
            if !part.equal {
                visit(ends, &next, leaf)?;
            }
        }
        next = Span { after: part.until, until: part.until, lower: Some(part.upper) };
    }
    if let Some(s) = small {
        ends.rows(&s)?;
    }
    match next.lower {
        Some(last) if next.until == span.until => Ok(last),
        _ => ends.rows(span),
    }
}

/// Cuts rows `after + 1 ..= until` into at most `parts` parts that differ by one row at most. Yields the
/// last row of each.
pub fn cut(after: i64, until: i64, parts: i64) -> impl Iterator<Item = i64> {
    let rows = until.saturating_sub(after).max(0);
    let parts = parts.clamp(1, rows.max(1));
    let end = move |part: i64| {
        let share = i128::from(rows) * i128::from(part) / i128::from(parts);
        after + i64::try_from(share).unwrap_or(rows)
    };
    (1..=parts).filter(move |_| rows > 0).map(end)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::{Digest, RangeHasher};

    type Rows = BTreeMap<u32, u32>;

    fn digest(rows: &Rows, lower: Option<u32>, upper: Option<u32>) -> Digest {
        let mut h = RangeHasher::default();
        let from = lower.map_or(Bound::Unbounded, Bound::Excluded);
        let to = upper.map_or(Bound::Unbounded, Bound::Included);
        for (k, v) in rows.range((from, to)) {
            h.row(&format!("{{\"id\":\"{k}\"}}"), &format!("{{\"v\":{v}}}"));
        }
        h.finish()
    }

    /// The far end is numbered, the near one is found by key.
    struct Two<'a> {
        far: &'a Rows,
        near: &'a Rows,
        keys: Vec<u32>,
        fanout: i64,
        digests: bool,
        found: BTreeSet<u32>,
        compared: usize,
        fetched: i64,
    }

    impl Two<'_> {
        fn upper(&self, until: i64) -> Option<u32> {
            (until < self.keys.len() as i64).then(|| self.keys[until as usize - 1])
        }
    }

    impl Ends for Two<'_> {
        type Key = u32;
        type Error = ();

        fn compare(&mut self, span: &Span<u32>) -> Result<Parts<u32>, ()> {
            if !self.digests {
                return Ok(None);
            }
            let mut lower = span.lower;
            let parts = cut(span.after, span.until, self.fanout).map(|until| {
                let (last, upper) = (self.keys[until as usize - 1], self.upper(until));
                self.compared += 1;
                let equal = digest(self.far, lower, Some(last)) == digest(self.near, lower, upper);
                lower = Some(last);
                Part { until, upper: last, equal }
            });
            Ok(Some(parts.collect()))
        }

        fn rows(&mut self, span: &Span<u32>) -> Result<u32, ()> {
            self.fetched += span.rows();
            let bounds = (
                span.lower.map_or(Bound::Unbounded, Bound::Excluded),
                self.upper(span.until).map_or(Bound::Unbounded, Bound::Included),
            );
            for k in self.far.range(bounds).chain(self.near.range(bounds)).map(|(k, _)| *k) {
                if self.far.get(&k) != self.near.get(&k) {
                    self.found.insert(k);
                }
            }
            Ok(self.keys[span.until as usize - 1])
        }
    }

    fn two<'a>(far: &'a Rows, near: &'a Rows, fanout: i64) -> Two<'a> {
        Two {
            far,
            near,
            keys: far.keys().copied().collect(),
            fanout,
            digests: true,
            found: BTreeSet::new(),
            compared: 0,
            fetched: 0,
        }
    }

    fn differing(far: &Rows, near: &Rows) -> BTreeSet<u32> {
        far.keys().chain(near.keys()).filter(|k| far.get(k) != near.get(k)).copied().collect()
    }

    fn rows() -> impl Strategy<Value = Rows> {
        proptest::collection::btree_map(0u32..400, 0u32..3, 1..200)
    }

    proptest! {
        #[test]
        fn every_difference_is_found_and_nothing_else(
            far in rows(),
            changes in proptest::collection::vec((0u32..400, proptest::option::of(0u32..3)), 0..20),
            fanout in 2i64..9,
            most in 1i64..300,
            leaf in 1i64..20,
            digests in any::<bool>(),
        ) {
            let mut near = far.clone();
            for (k, v) in changes {
                match v {
                    Some(v) => near.insert(k, v),
                    None => near.remove(&k),
                };
            }
            let mut ends = two(&far, &near, fanout);
            ends.digests = digests;
            descend(&mut ends, 0, far.len() as i64, Reach { most, leaf }).unwrap();
            prop_assert_eq!(&ends.found, &differing(&far, &near));
            prop_assert!(!far.is_empty());
        }

        #[test]
        fn the_order_of_arrival_does_not_matter(rows in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50)) {
            let (mut forward, mut backward) = (Rows::new(), Rows::new());
            let unique: Rows = rows.iter().copied().collect();
            unique.iter().for_each(|(k, v)| { forward.insert(*k, *v); });
            unique.iter().rev().for_each(|(k, v)| { backward.insert(*k, *v); });
            prop_assert_eq!(digest(&forward, None, None), digest(&backward, None, None));
        }

        #[test]
        fn parts_are_even_and_whole(after in 0i64..1_000_000, rows in 1i64..5000, parts in 1i64..300) {
            let ends: Vec<i64> = cut(after, after + rows, parts).collect();
            prop_assert_eq!(ends.len() as i64, parts.min(rows));
            prop_assert_eq!(*ends.last().unwrap(), after + rows);
            let sizes: Vec<i64> =
                std::iter::once(after).chain(ends.iter().copied()).zip(&ends).map(|(a, b)| b - a).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    /// A server whose parts end before the span does: the rows themselves are compared.
    #[test]
    fn parts_that_leave_something_out_are_not_believed() {
        struct Short(Vec<(i64, i64)>);
        impl Ends for Short {
            type Key = i64;
            type Error = ();
            fn compare(&mut self, span: &Span<i64>) -> Result<Parts<i64>, ()> {
                let until = span.until - 1;
                Ok(Some(vec![Part { until, upper: until, equal: true }]))
            }
            fn rows(&mut self, span: &Span<i64>) -> Result<i64, ()> {
                self.0.push((span.after, span.until));
                Ok(span.until)
            }
        }
        let mut ends = Short(Vec::new());
        descend(&mut ends, 0, 10, Reach { most: 10, leaf: 2 }).unwrap();
        assert_eq!(ends.0, [(0, 10)]);
        assert_eq!(cut(5, 5, 3).count(), 0, "nothing has no parts");
    }

    #[test]
    fn a_few_differences_cost_a_few_ranges() {
        let far: Rows = (0..100_000u32).map(|k| (k * 2, 0)).collect();
        for differences in [0u32, 1, 7] {
            let mut near = far.clone();
            for d in 0..differences {
                near.insert(d * 26_000, 1);
            }
            let mut ends = two(&far, &near, 64);
            descend(&mut ends, 0, 100_000, Reach { most: 1_000_000, leaf: 64 }).unwrap();
            assert_eq!(ends.found.len() as u32, differences);
            // 64 for the whole, and for each difference 64 of 1,563 rows; 24 or 25 rows are left then.
            assert!(ends.compared <= 64 * (1 + differences as usize), "{}", ends.compared);
            assert!(ends.fetched <= 25 * i64::from(differences), "{}", ends.fetched);
        }
    }

    #[test]
    fn neighbours_that_differ_are_fetched_together() {
        let far: Rows = (0..1000u32).map(|k| (k, 0)).collect();
        let near = Rows::new();
        let mut ends = two(&far, &near, 16);
        struct Counting<'a, 'b>(&'a mut Two<'b>, usize);
        impl Ends for Counting<'_, '_> {
            type Key = u32;
            type Error = ();
            fn compare(&mut self, span: &Span<u32>) -> Result<Parts<u32>, ()> {
                self.0.compare(span)
            }
            fn rows(&mut self, span: &Span<u32>) -> Result<u32, ()> {
                self.1 += 1;
                self.0.rows(span)
            }
        }
        let mut counting = Counting(&mut ends, 0);
        descend(&mut counting, 0, 1000, Reach { most: 10_000, leaf: 64 }).unwrap();
        assert_eq!((counting.1, ends.fetched, ends.found.len()), (1, 1000, 1000));
    }
}
