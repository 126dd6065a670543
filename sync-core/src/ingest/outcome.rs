//! What becomes of a record, and what a batch counts.

/// The stamp of a version of a record, in nanoseconds since the Unix epoch, the first part first; a missing time is the
/// oldest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamps(pub Vec<Option<i128>>);

impl Stamps {
    /// As text, for storage.
    #[must_use]
    pub fn to_text(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|p| p.map_or_else(String::new, |n| n.to_string())).collect();
        parts.join(",")
    }

    /// From [`Stamps::to_text`]; `None` where it is something else.
    #[must_use]
    pub fn from_text(text: &str, parts: usize) -> Option<Self> {
        if parts == 0 {
            return text.is_empty().then(Self::default);
        }
        let read = |p: &str| if p.is_empty() { Some(None) } else { p.parse().ok().map(Some) };
        let found: Option<Vec<_>> = text.split(',').map(read).collect();
        found.filter(|f| f.len() == parts).map(Self)
    }
}

/// What is compared of two versions of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 of the canonical form without the members that make no version.
    pub hash: [u8; 32],
    /// When it was made.
    pub stamps: Stamps,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was not there.
    New,
    /// It replaces an older version, or one of the same time.
    Updated,
    /// The same content, which is now known to hold at a later time: the stamp moves on, so that a version from in
    /// between stays older, whenever it comes.
    Confirmed,
    /// The same content at the same or an earlier time, or an older version: nothing changes.
    Duplicate,
}

/// The fate of a record.
#[must_use]
pub fn fate(stored: Option<&Known>, incoming: &Known) -> Fate {
    let Some(stored) = stored else { return Fate::New };
    if incoming.stamps < stored.stamps {
        return Fate::Duplicate;
    }
    match (incoming.hash == stored.hash, incoming.stamps > stored.stamps) {
        (false, _) => Fate::Updated,
        (true, true) => Fate::Confirmed,
        (true, false) => Fate::Duplicate,
    }
}

/// The counts of one kind. `accepted` and `duplicates` are what was submitted; `updated` is a part of `accepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// New and updated.
    pub accepted: u64,
    /// Updated.
    pub updated: u64,
    /// The rest.
    pub duplicates: u64,
}

impl Count {
    /// Counts a record.
    pub fn add(&mut self, fate: Fate) {
        match fate {
            Fate::New => self.accepted += 1,
            Fate::Updated => {
                self.accepted += 1;
                self.updated += 1;
            }
            Fate::Confirmed | Fate::Duplicate => self.duplicates += 1,
        }
    }

    /// The same, once the batch was taken before.
    #[must_use]
    pub fn replayed(self) -> Self {
        Self { accepted: 0, updated: 0, duplicates: self.accepted + self.duplicates }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(payload: u8, stamp: i128) -> Known {
        Known { hash: [payload; 32], stamps: Stamps(vec![Some(stamp)]) }
    }

    #[test]
    fn stamps_are_compared_part_by_part_and_a_missing_one_is_the_oldest() {
        let stamps = |parts: &[Option<i128>]| Stamps(parts.to_vec());
        assert!(stamps(&[Some(2), None]) > stamps(&[Some(1), Some(9)]));
        assert!(stamps(&[None, Some(1)]) < stamps(&[Some(-5), None]));
        for s in [stamps(&[]), stamps(&[Some(-1), None]), stamps(&[None]), stamps(&[Some(i128::MAX), Some(0)])] {
            assert_eq!(Stamps::from_text(&s.to_text(), s.0.len()), Some(s));
        }
        assert_eq!(Stamps::from_text("1,2", 1), None);
        assert_eq!(Stamps::from_text("x", 1), None);
    }

    #[test]
    fn without_a_stamp_the_later_arrival_holds() {
        let known = |payload: u8| Known { hash: [payload; 32], stamps: Stamps::default() };
        assert_eq!(fate(None, &known(1)), Fate::New);
        assert_eq!(fate(Some(&known(1)), &known(1)), Fate::Duplicate);
        assert_eq!(fate(Some(&known(1)), &known(2)), Fate::Updated);
    }

    proptest! {
        /// Versions with different stamps end alike in any order, each sent any number of times (I2).
        #[test]
        fn order_and_repetition_do_not_matter(
            payloads in proptest::collection::vec(0u8..3, 1..6),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let versions: Vec<Known> = payloads.iter().zip(0..).map(|(p, stamp)| known(*p, stamp)).collect();
            let each = (0..versions.len()).rev();
            let mut stored: Option<Known> = None;
            for i in order.iter().map(|i| i.index(versions.len())).chain(each) {
                let incoming = &versions[i];
                match fate(stored.as_ref(), incoming) {
                    Fate::New | Fate::Updated => stored = Some(incoming.clone()),
                    Fate::Confirmed => stored.as_mut().unwrap().stamps = incoming.stamps.clone(),
                    Fate::Duplicate => {}
                }
            }
            prop_assert_eq!(stored.as_ref(), versions.last());
        }
    }
}
