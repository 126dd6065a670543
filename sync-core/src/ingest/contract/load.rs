//! Reading a declaration, and what it has to be to be used.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Auth, Contract, Dialect, Enrol, Envelope, Gate, Hook, Kind, Limits, Parts, Rate, Rejects, Rollup, Route, Stamp,
    Version,
};
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
    #[serde(default)]
    rejects: Rejects,
    enrol: Option<DeclaredEnrol>,
    hook: Option<Hook>,
    #[serde(default)]
    rate: Vec<Rate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredVersion {
    is: String,
    prefix: Option<String>,
    schema: String,
    #[serde(default)]
    ack: String,
    #[serde(default)]
    refuse: Vec<Pointer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredEnrol {
    most_id: usize,
    config: String,
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
    #[error(
        "the gates must be size, auth, decode, version, schema, receipt and policy in either order, apply; or, with records \
         rejected one by one, size, auth, decode, schema, version, device, member, rate, policy, apply"
    )]
    Order,
    /// Records that are rejected one by one, of a kind that is not stored once, or of a contract without enrolment; or
    /// receipts, where there are none.
    #[error(
        "records are rejected one by one where all kinds are appended, devices enrolled, and batches without an id"
    )]
    Rejects,
    /// A configuration without a default for each of its members.
    #[error("the configuration has no default for {0}")]
    Config(String),
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

    /// Aexy Tracker's event batches, compiled in.
    #[must_use]
    pub fn aexy() -> Self {
        let schemas = [
            ("events_batch.v1.json", include_str!("../contracts/events_batch.v1.json")),
            ("device_config.v1.json", include_str!("../contracts/device_config.v1.json")),
        ];
        Self::load(include_str!("../contracts/aexy.toml"), &schemas).expect("invariant: a test loads it")
    }

    /// The contract of this short name, where it is compiled in.
    #[must_use]
    pub fn of(stream: &str) -> Option<Self> {
        match stream {
            "statsai" => Some(Self::statsai()),
            "aexy" => Some(Self::aexy()),
            _ => None,
        }
    }

    /// The short names of those that are compiled in.
    pub const STREAMS: [&'static str; 2] = ["statsai", "aexy"];

    /// Reads and checks a declaration; `schemas` are the files beside it, by name.
    ///
    /// # Errors
    /// Where it cannot be used: each pointer has to be in each version's schema, each id required there.
    pub fn load(toml: &str, schemas: &[(&str, &str)]) -> Result<Self, ContractError> {
        let d: Declared = toml::from_str(toml).map_err(|e| ContractError::Toml(e.to_string()))?;
        let file = |wanted: &str| {
            let found = schemas.iter().find(|(name, _)| *name == wanted);
            let (_, text) = found.ok_or_else(|| ContractError::NoSchema(wanted.to_owned()))?;
            Schema::new(text).map_err(ContractError::from)
        };
        let mut versions = Vec::with_capacity(d.version.len());
        for v in d.version {
            let schema = file(&v.schema)?;
            let parts = if d.rejects == Rejects::PerRecord { Some(parts(&schema, &d.kind, &v.is)?) } else { None };
            versions.push(Version { is: v.is, prefix: v.prefix, ack: v.ack, refuse: v.refuse, schema, parts });
        }
        let enrol = match d.enrol {
            Some(e) => Some(Enrol { most_id: e.most_id, config: file(&e.config)? }),
            None => None,
        };
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
            rejects: d.rejects,
            enrol,
            hook: d.hook,
            rates: d.rate,
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
        self.check_order()?;
        let by_one = self.rejects == Rejects::PerRecord;
        let receipts = self.envelope.batch.is_some() && self.envelope.replay.is_some();
        let bound = self.enrol.is_some() && self.hook.is_some();
        if self.kinds.iter().any(|k| k.append.is_some() != by_one) || receipts == by_one || bound != by_one {
            return Err(ContractError::Rejects);
        }
        if let Some(enrol) = &self.enrol {
            let members = enrol.config.document().get("properties").and_then(|p| p.as_object());
            for (name, member) in members.into_iter().flatten() {
                member.get("default").ok_or_else(|| ContractError::Config(name.clone()))?;
            }
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

    fn check_order(&self) -> Result<(), ContractError> {
        use Gate::{Apply, Auth, Decode, Device, Member, Policy, Rate, Receipt, Schema, Size, Version};
        let mut order = self.order.clone();
        if let Some(at) = order.windows(2).position(|w| w == [Policy, Receipt]) {
            order.swap(at, at + 1);
        }
        let fine = match self.rejects {
            Rejects::Whole => order == [Size, Auth, Decode, Version, Schema, Receipt, Policy, Apply],
            Rejects::PerRecord => order == [Size, Auth, Decode, Schema, Version, Device, Member, Rate, Policy, Apply],
        };
        if fine { Ok(()) } else { Err(ContractError::Order) }
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
        for p in [&self.envelope.device, &self.envelope.created_at].into_iter().chain(&self.envelope.batch) {
            found("envelope", root, p)?;
        }
        for kind in &self.kinds {
            let record = items(root, &kind.name).ok_or_else(|| missing(&kind.name, format!("/{}", kind.name)))?;
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
            if let Some(append) = &kind.append {
                for p in [&append.seq, &append.time] {
                    found(&kind.name, record, p)?;
                }
            }
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

/// The schema of the records of a kind.
fn items<'a>(root: &'a Value, kind: &str) -> Option<&'a Value> {
    described(root, root)?.get("properties")?.get(kind)?.get("items")
}

/// A schema in parts: the batch without a word on its records, and each kind's record.
fn parts(schema: &Schema, kinds: &[Kind], version: &str) -> Result<Parts, ContractError> {
    let root = schema.document();
    let mut envelope = root.clone();
    let mut records = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let missing = || ContractError::Pointer {
            what: kind.name.clone(),
            schema: version.to_owned(),
            pointer: format!("/{}", kind.name),
        };
        let of = items(root, &kind.name).ok_or_else(missing)?;
        let mut record = described(root, of).and_then(|s| s.as_object()).ok_or_else(missing)?.clone();
        if let Some(defs) = root.get("$defs") {
            record.insert("$defs".into(), defs.clone());
        }
        records.push(Schema::new(&Value::from(record).to_string())?);
        let list = envelope.get_mut("properties").and_then(|p| p.get_mut(&kind.name)?.as_object_mut());
        list.ok_or_else(missing)?.remove("items");
    }
    Ok(Parts { envelope: Schema::new(&envelope.to_string())?, records })
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
