//! Reading a declaration, and what it has to be to be used.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Auth, Contract, Dialect, Envelope, Gate, Kind, Limits, Rollup, Route, Stamp, Version};
use crate::ingest::pointer::{Pointer, described};
use crate::ingest::validate::{Schema, SchemaError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    stream: String,
    dialect: Dialect,
    order: Vec<Gate>,
    version_at: Pointer,
    auth: Auth,
    route: Vec<Route>,
    version: Vec<DeclaredVersion>,
    limits: Limits,
    envelope: Envelope,
    kind: Vec<Kind>,
    rollup: Option<Rollup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredVersion {
    is: String,
    schema: String,
    ack: String,
    refuse: Vec<Pointer>,
}

/// Why a declaration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// The TOML file itself.
    #[error("the declaration cannot be read: {0}")]
    Toml(String),
    /// A schema that it names is not there.
    #[error("there is no schema file {0}")]
    NoSchema(String),
    /// A schema that it names is none.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A pointer to what the schema does not know.
    #[error("{what}: the schema {schema} has nothing at {pointer}")]
    Pointer {
        /// What it is for.
        what: String,
        /// The schema of which version.
        schema: String,
        /// The pointer.
        pointer: String,
    },
    /// An id that a record may be without.
    #[error("{kind}: the schema {schema} does not require {pointer}")]
    Optional {
        /// The kind.
        kind: String,
        /// The schema of which version.
        schema: String,
        /// The pointer.
        pointer: String,
    },
    /// Sums of a kind that is not declared.
    #[error("the rollup is from {0}, which is no kind of the contract")]
    RollupKind(String),
    /// Gates that cannot be passed in this order.
    #[error("the gates must be size, auth, decode, version, schema, receipt and policy in either order, apply")]
    Order,
    /// Two contracts, or one twice, with a path.
    #[error("{method} {path} is declared twice")]
    Route {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
}

impl Contract {
    /// StatsAI's `sync_batch.v1`, compiled in.
    #[must_use]
    pub fn statsai() -> Self {
        let schemas = [("sync_batch.v1.json", include_str!("../contracts/sync_batch.v1.json"))];
        Self::load(include_str!("../contracts/statsai.toml"), &schemas).expect("invariant: a test loads it")
    }

    /// Reads and checks a declaration; `schemas` are the files beside it, by name.
    ///
    /// # Errors
    /// Where it cannot be used: each pointer has to be in each version's schema, each id required there.
    pub fn load(toml: &str, schemas: &[(&str, &str)]) -> Result<Self, ContractError> {
        let d: Declared = toml::from_str(toml).map_err(|e| ContractError::Toml(e.to_string()))?;
        let mut versions = Vec::with_capacity(d.version.len());
        for v in d.version {
            let file = schemas.iter().find(|(name, _)| *name == v.schema);
            let (_, text) = file.ok_or_else(|| ContractError::NoSchema(v.schema.clone()))?;
            versions.push(Version { is: v.is, ack: v.ack, refuse: v.refuse, schema: Schema::new(text)? });
        }
        let contract = Self {
            name: d.name,
            stream: d.stream,
            dialect: d.dialect,
            order: d.order,
            version_at: d.version_at,
            auth: d.auth,
            routes: d.route,
            versions,
            limits: d.limits,
            envelope: d.envelope,
            kinds: d.kind,
            rollup: d.rollup,
        };
        contract.check()?;
        Ok(contract)
    }

    /// The kind of this name.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|k| k.name == name)
    }

    fn check(&self) -> Result<(), ContractError> {
        let mut order = self.order.clone();
        if let Some(at) = order.windows(2).position(|w| w == [Gate::Policy, Gate::Receipt]) {
            order.swap(at, at + 1);
        }
        let all = [
            Gate::Size,
            Gate::Auth,
            Gate::Decode,
            Gate::Version,
            Gate::Schema,
            Gate::Receipt,
            Gate::Policy,
            Gate::Apply,
        ];
        if order != all {
            return Err(ContractError::Order);
        }
        check_routes([self])?;
        for v in &self.versions {
            self.check_version(v)?;
        }
        match &self.rollup {
            Some(r) if self.kind(&r.from).is_none() => Err(ContractError::RollupKind(r.from.clone())),
            _ => Ok(()),
        }
    }

    fn check_version(&self, v: &Version) -> Result<(), ContractError> {
        let root = v.schema.document();
        let missing = |what: &str, pointer: String| ContractError::Pointer {
            what: what.to_owned(),
            schema: v.is.clone(),
            pointer,
        };
        let found = |what: &str, at, p: &Pointer| p.in_schema(root, at).ok_or_else(|| missing(what, p.to_string()));
        found("version_at", root, &self.version_at)?;
        for p in [&self.envelope.batch, &self.envelope.device, &self.envelope.created_at] {
            found("envelope", root, p)?;
        }
        for kind in &self.kinds {
            let list = format!("/{}", kind.name);
            let items = described(root, root).and_then(|s| s.get("properties")?.get(&kind.name)?.get("items"));
            let record = items.ok_or_else(|| missing(&kind.name, list))?;
            found(&kind.name, record, &kind.id)?;
            let required = described(root, record).and_then(|s| s.get("required")?.as_array());
            let name = kind.id.to_string();
            if !required.is_some_and(|r| r.iter().any(|m| m.as_str().is_some_and(|m| name == format!("/{m}")))) {
                return Err(ContractError::Optional { kind: kind.name.clone(), schema: v.is.clone(), pointer: name });
            }
            for stamp in &kind.newer_by {
                match stamp {
                    Stamp::Record(p) => found(&kind.name, record, p)?,
                    Stamp::Batch(p) => found(&kind.name, root, p)?,
                };
            }
            let strips = kind.strip.iter().flat_map(|s| std::iter::once(&s.at).chain(&s.unless_at));
            let marks = kind.mark.iter().flat_map(|m| [&m.at, &m.when]);
            for p in kind.hash_ignore.iter().chain(&kind.cursor).chain(strips).chain(marks) {
                found(&kind.name, record, p)?;
            }
            if let Some(r) = self.rollup.as_ref().filter(|r| r.from == kind.name) {
                for p in [&r.where_at, &r.day, &r.counts, &r.cents].into_iter().chain(&r.dimensions) {
                    found("rollup", record, p)?;
                }
            }
        }
        Ok(())
    }
}

/// Checks that no path is declared twice over all of these contracts.
///
/// # Errors
/// Where one is.
pub fn check_routes<'a>(contracts: impl IntoIterator<Item = &'a Contract>) -> Result<(), ContractError> {
    let mut seen = BTreeSet::new();
    for route in contracts.into_iter().flat_map(|c| &c.routes) {
        if !seen.insert((&route.method, &route.path)) {
            return Err(ContractError::Route { method: route.method.clone(), path: route.path.clone() });
        }
    }
    Ok(())
}
