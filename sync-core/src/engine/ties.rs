//! Which rows of a push cannot go without which others (cases C8, P7): by foreign key, by the new value
//! and by that of the base, and by UNIQUE values of which one row frees what another takes.
//!
//! Each row says what its commit *gives* (a key to refer to, a key that nobody refers to any more, a free
//! UNIQUE value) and what it *needs*. A row that needs what only a refused row would give waits with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{self, Record};
use crate::schema::{Affinity, Schema, Table};
use crate::value::Value;

/// One thing that a row gives or needs, as a hash: two things that fall on one only make a row wait
/// that need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// Whether it is about a UNIQUE value.
    const fn unique(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What a row gives and needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What its commit makes true on the server.
    pub gives: Vec<Token>,
    /// What has to be true there before its commit, or by the same one.
    pub needs: Vec<Token>,
}

/// What the server has of a row before the push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before<'a> {
    /// No such row.
    Absent,
    /// This row.
    Row(&'a Record),
    /// One whose values are not known, but for its key.
    Unknown,
}

/// The columns by which the rows of a schema are tied, worked out once.
#[derive(Debug)]
pub struct Shape {
    tables: Vec<TableShape>,
}

#[derive(Debug, Default)]
struct TableShape {
    key: Vec<usize>,
    /// Own columns, and the place in the parent that they refer to.
    refers: Vec<(Vec<usize>, Place)>,
    /// Own columns that others refer to.
    referred: Vec<(Vec<usize>, Place)>,
    uniques: Vec<(Vec<usize>, Place)>,
}

/// Columns whose values are compared, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    seed: Vec<u8>,
    affinities: Vec<Affinity>,
    collations: Vec<String>,
}

/// What a token says of a place.
#[derive(Clone, Copy)]
enum Says {
    /// A row with these values is there.
    There = 0,
    /// Nobody refers to these values.
    Unreferred = 1,
    /// Nobody holds these values.
    Free = 2,
}

impl Shape {
    /// Works out how the rows of a schema can be tied.
    #[must_use]
    pub fn new(schema: &Schema) -> Self {
        let mut tables: Vec<TableShape> =
            schema.tables().iter().map(|t| TableShape { key: t.key.clone(), ..TableShape::default() }).collect();
        for (at, table) in schema.tables().iter().enumerate() {
            for fk in &table.foreign_keys {
                let Some(parent) = schema.position(&fk.parent) else { continue };
                let parent_table = &schema.tables()[parent];
                let Some(columns) =
                    fk.parent_columns.iter().map(|c| parent_table.column(c)).collect::<Option<Vec<_>>>()
                else {
                    continue;
                };
                // One order for all that refer to the same columns.
                let mut pairs: Vec<(usize, usize)> = columns.into_iter().zip(fk.columns.iter().copied()).collect();
                pairs.sort_unstable();
                let (theirs, own): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
                let place = place(parent, parent_table, &theirs, &collations(parent_table, &theirs));
                tables[at].refers.push((own, place.clone()));
                if !tables[parent].referred.iter().any(|(c, _)| *c == theirs) {
                    tables[parent].referred.push((theirs, place));
                }
            }
            for u in &table.uniques {
                let place = place(at, table, &u.columns, &u.collations);
                tables[at].uniques.push((u.columns.clone(), place));
            }
        }
        Self { tables }
    }

    /// What a row gives and needs. `after` is the row as it is to be, `None` where it is to be deleted.
    #[must_use]
    pub fn facts(&self, table: usize, key: &[Value], before: Before<'_>, after: Option<&[Value]>) -> Facts {
        let mut out = Facts::default();
        let Some(t) = self.tables.get(table) else { return out };
        let new = |columns: &[usize], place: &Place| {
            let row = after?;
            place.values(columns.iter().map(|i| row.get(*i)))
        };
        let old = |columns: &[usize], place: &Place| match before {
            Before::Absent => None,
            Before::Row(row) => place.values(columns.iter().map(|i| row.get(*i)?.as_ref())),
            Before::Unknown => {
                place.values(columns.iter().map(|i| t.key.iter().position(|k| k == i).and_then(|n| key.get(n))))
            }
        };
        for (columns, place) in &t.refers {
            let (was, is) = (old(columns, place), new(columns, place));
            if was != is {
                out.gives.extend(was.map(|v| place.token(Says::Unreferred, &v)));
            }
            out.needs.extend(is.map(|v| place.token(Says::There, &v)));
        }
        for (columns, place) in &t.referred {
            let (was, is) = (old(columns, place), new(columns, place));
            if was != is {
                out.needs.extend(was.map(|v| place.token(Says::Unreferred, &v)));
                out.gives.extend(is.map(|v| place.token(Says::There, &v)));
            }
        }
        for (columns, place) in &t.uniques {
            let (was, is) = (old(columns, place), new(columns, place));
            if was != is {
                out.gives.extend(was.map(|v| place.token(Says::Free, &v)));
                out.needs.extend(is.map(|v| place.token(Says::Free, &v)));
            }
        }
        out
    }
}

impl Place {
    /// Values as they are compared; `None` where one is NULL or not known: that ties nothing.
    fn values<'v>(&self, row: impl Iterator<Item = Option<&'v Value>>) -> Option<Vec<Value>> {
        row.zip(self.affinities.iter().zip(&self.collations))
            .map(|(v, (affinity, collation))| match v {
                None | Some(Value::Null) => None,
                Some(v) => Some(folded(v, *affinity, collation)),
            })
            .collect()
    }

    fn token(&self, says: Says, values: &[Value]) -> Token {
        let mut bytes = self.seed.clone();
        bytes.push(says as u8);
        bytes.extend(record::encode(values));
        let hash = blake3::hash(&bytes);
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        let unique = u64::from(matches!(says, Says::Free));
        Token(u64::from_be_bytes(head) & !1 | unique)
    }
}

fn place(at: usize, table: &Table, columns: &[usize], collations: &[String]) -> Place {
    let mut seed = (at as u64).to_be_bytes().to_vec();
    for c in columns {
        seed.extend((*c as u64).to_be_bytes());
    }
    Place {
        seed,
        affinities: columns.iter().map(|c| table.columns[*c].affinity).collect(),
        collations: collations.to_vec(),
    }
}

/// The collations of the UNIQUE index over these columns; a primary key compares by bytes.
fn collations(table: &Table, columns: &[usize]) -> Vec<String> {
    let of = |u: &crate::schema::Unique, c: &usize| {
        u.columns.iter().position(|x| x == c).and_then(|n| u.collations.get(n).cloned())
    };
    let index = table
        .uniques
        .iter()
        .find(|u| u.columns.len() == columns.len() && columns.iter().all(|c| u.columns.contains(c)));
    columns.iter().map(|c| index.and_then(|u| of(u, c)).unwrap_or_else(|| "BINARY".into())).collect()
}

/// A value as SQLite compares it in a column: by the column's affinity and the index's collation.
fn folded(v: &Value, affinity: Affinity, collation: &str) -> Value {
    let v = match (v, affinity) {
        (Value::Text(s), Affinity::Integer | Affinity::Numeric | Affinity::Real) => match s.trim().parse::<i64>() {
            Ok(i) => Value::Integer(i),
            Err(_) => v.clone(),
        },
        (Value::Integer(i), Affinity::Text) => Value::Text(i.to_string()),
        #[expect(clippy::cast_possible_truncation, reason = "compared with the original right after")]
        (Value::Real(r), _) if (*r as i64) as f64 == *r && r.abs() < 9e15 => Value::Integer(*r as i64),
        _ => v.clone(),
    };
    match v {
        Value::Text(s) if collation.eq_ignore_ascii_case("NOCASE") => Value::Text(s.to_ascii_lowercase()),
        Value::Text(s) if collation.eq_ignore_ascii_case("RTRIM") => Value::Text(s.trim_end_matches(' ').to_owned()),
        v => v,
    }
}

/// The ties of a set of rows, numbered in the order in which they were added.
#[derive(Debug, Default)]
pub struct Ties {
    rows: u32,
    /// By row.
    gives: Vec<(u32, Token)>,
    needs: Vec<(u32, Token)>,
}

impl Ties {
    /// Adds a row and returns its number.
    pub fn add(&mut self, facts: &Facts) -> u32 {
        let row = self.rows;
        self.gives.extend(facts.gives.iter().map(|t| (row, *t)));
        self.needs.extend(facts.needs.iter().map(|t| (row, *t)));
        self.rows += 1;
        row
    }

    /// The rows that cannot go while others are stuck, each with the stuck row that it waits for.
    ///
    /// `soft` are stuck too, but perhaps only for want of another: a foreign key or a UNIQUE value was what they
    /// were refused for. Those that need a stuck row wait for it.
    #[must_use]
    pub fn waiting(&self, hard: &[u32], soft: &[u32]) -> BTreeMap<u32, u32> {
        let needs = by_token(&self.needs);
        let mut out = BTreeMap::new();
        let mut roots: BTreeSet<u32> = hard.iter().copied().collect();
        for stuck in hard.iter().chain(soft) {
            if out.contains_key(stuck) {
                continue;
            }
            roots.insert(*stuck);
            let mut left = vec![*stuck];
            while let Some(row) = left.pop() {
                for (_, token) in of_row(&self.gives, row) {
                    for (_, needer) in of_token(&needs, *token) {
                        if !roots.contains(needer) && !out.contains_key(needer) {
                            out.insert(*needer, *stuck);
                            left.push(*needer);
                        }
                    }
                }
            }
        }
        out
    }

    /// Of groups, some that need no others: as far as there are, such that no other needs either. One that
    /// others need is always left.
    #[must_use]
    pub fn independent(&self, groups: &[Vec<u32>], wanted: usize) -> Vec<usize> {
        let mut group_of = vec![0; self.rows as usize];
        for (n, group) in groups.iter().enumerate() {
            group.iter().for_each(|r| group_of[*r as usize] = n);
        }
        let givers = by_token(&self.gives);
        let (mut needs, mut needed) = (vec![false; groups.len()], vec![false; groups.len()]);
        for (row, token) in &self.needs {
            for (_, giver) in of_token(&givers, *token) {
                let (from, to) = (group_of[*row as usize], group_of[*giver as usize]);
                if from != to {
                    needs[from] = true;
                    needed[to] = true;
                }
            }
        }
        let (first, alone): (Vec<usize>, Vec<usize>) =
            (0..groups.len()).filter(|n| !needs[*n]).partition(|n| needed[*n]);
        // From the middle on: what is wrong is more often among the oldest or the newest. What others need is
        // taken only while another such group is left.
        let from_middle = |list: Vec<usize>| [&list[list.len() / 2..], &list[..list.len() / 2]].concat();
        let spare = first.len().saturating_sub(1);
        from_middle(alone).into_iter().chain(from_middle(first).into_iter().take(spare)).take(wanted).collect()
    }

    /// The rows in groups that cannot be parted, each group after those that it needs. Rows in a cycle
    /// are together, and so are rows with a UNIQUE value between them, unless that makes a group of
    /// more than `most` rows: then only a ring of values keeps them together.
    #[must_use]
    pub fn groups(&self, most: usize) -> Vec<Vec<u32>> {
        let givers = by_token(&self.gives);
        let mut edges: Vec<(u32, u32)> = Vec::new();
        let mut back: Vec<(u32, u32)> = Vec::new();
        for (row, token) in &self.needs {
            for (_, giver) in of_token(&givers, *token).iter().filter(|(_, g)| g != row) {
                edges.push((*row, *giver));
                if token.unique() {
                    back.push((*giver, *row));
                }
            }
        }
        let mut both = [edges.clone(), back].concat();
        edges.sort_unstable();
        both.sort_unstable();
        let all: Vec<u32> = (0..self.rows).collect();
        let mut out = Vec::new();
        for group in components(&all, &both) {
            if group.len() > most {
                out.extend(components(&group, &edges));
            } else {
                out.push(group);
            }
        }
        out
    }
}

/// Runs of groups of at most `most` rows together. A group that is larger than that is a run of its own.
#[must_use]
pub fn pack(groups: Vec<Vec<u32>>, most: usize) -> Vec<Vec<u32>> {
    let mut out: Vec<Vec<u32>> = Vec::new();
    for group in groups {
        match out.last_mut() {
            Some(last) if last.len() + group.len() <= most => last.extend(group),
            _ => out.push(group),
        }
    }
    out
}

fn by_token(list: &[(u32, Token)]) -> Vec<(Token, u32)> {
    let mut out: Vec<(Token, u32)> = list.iter().map(|(r, t)| (*t, *r)).collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn of_token(list: &[(Token, u32)], token: Token) -> &[(Token, u32)] {
    let from = list.partition_point(|(t, _)| *t < token);
    let to = list.partition_point(|(t, _)| *t <= token);
    &list[from..to]
}

fn of_row(list: &[(u32, Token)], row: u32) -> &[(u32, Token)] {
    let from = list.partition_point(|(r, _)| *r < row);
    let to = list.partition_point(|(r, _)| *r <= row);
    &list[from..to]
}

/// Tarjan's strongly connected components of these rows, without recursion. `edges` are sorted and go
/// from a row to one that it needs, so a component comes after those that it needs.
fn components(rows: &[u32], edges: &[(u32, u32)]) -> Vec<Vec<u32>> {
    const NEW: u32 = u32::MAX;
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    let place = |r: u32| rows.binary_search(&r).ok();
    let mut index = vec![NEW; rows.len()];
    let mut low = vec![0; rows.len()];
    let mut on = vec![false; rows.len()];
    let (mut stack, mut out, mut next) = (Vec::new(), Vec::new(), 0);
    for start in 0..rows.len() {
        if index[start] != NEW {
            continue;
        }
        // A row, and how many of its edges were followed.
        let mut work = vec![(start, 0)];
        while let Some((at, followed)) = work.pop() {
            if followed == 0 {
                index[at] = next;
                low[at] = next;
                next += 1;
                stack.push(at);
                on[at] = true;
            }
            let from = edges.partition_point(|(r, _)| *r < rows[at]);
            let mut deeper = None;
            let mut n = followed;
            while let Some((_, to)) = edges.get(from + n).filter(|(r, _)| *r == rows[at]) {
                n += 1;
                let Some(to) = place(*to) else { continue };
                if index[to] == NEW {
                    deeper = Some(to);
                    break;
                }
                if on[to] {
                    low[at] = low[at].min(index[to]);
                }
            }
            if let Some(to) = deeper {
                work.push((at, n));
                work.push((to, 0));
                continue;
            }
            if low[at] == index[at] {
                let mut group = Vec::new();
                while let Some(member) = stack.pop() {
                    on[member] = false;
                    group.push(rows[member]);
                    if member == at {
                        break;
                    }
                }
                group.sort_unstable();
                out.push(group);
            }
            if let Some((parent, _)) = work.last() {
                low[*parent] = low[*parent].min(low[at]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
