//! The configuration of enrolled devices: declared by a JSON Schema with a default for each member, and known by a tag that
//! changes when it does.

use serde_json::{Map, Value};

use super::contract::Enrol;
use super::exact::Json;

/// The tag of a configuration in which all is by default.
const DEFAULT_TAG: &str = "cfg_0";

/// The member under which a device is told the tag.
pub const TAG: &str = "config_etag";

/// A configuration that its schema has nothing against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    members: Map<String, Value>,
    tag: String,
}

/// Why a configuration is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has no such member, or not with this value: {0}")]
pub struct ConfigFault(pub String);

impl Config {
    /// A configuration by what differs from the defaults.
    ///
    /// # Errors
    /// Where the schema has something against it.
    pub fn of(enrol: &Enrol, set: &Map<String, Value>) -> Result<Self, ConfigFault> {
        let defaults = defaults(enrol);
        let mut members = defaults.clone();
        for (name, value) in set {
            if !defaults.contains_key(name) {
                return Err(ConfigFault(format!("/{name}")));
            }
            members.insert(name.clone(), value.clone());
        }
        enrol
            .config
            .check(&Value::Object(members.clone()), 1)
            .map_err(|mut found| ConfigFault(found.remove(0).path))?;
        let tag = if members == defaults { DEFAULT_TAG.to_owned() } else { tag(&members) };
        Ok(Self { members, tag })
    }

    /// Changes with any member.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// A member.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// The members that are not as by default.
    #[must_use]
    pub fn set(&self, enrol: &Enrol) -> Map<String, Value> {
        let defaults = defaults(enrol);
        self.members.iter().filter(|(n, v)| defaults.get(*n) != Some(*v)).map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// As a device is told it.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut shown = self.members.clone();
        shown.insert(TAG.into(), self.tag.clone().into());
        Value::Object(shown)
    }
}

fn defaults(enrol: &Enrol) -> Map<String, Value> {
    let members = enrol.config.document().get("properties").and_then(Value::as_object);
    let of = |(name, member): (&String, &Value)| Some((name.clone(), member.get("default")?.clone()));
    members.into_iter().flatten().filter_map(of).collect()
}

fn tag(members: &Map<String, Value>) -> String {
    let text = serde_json::to_vec(members).unwrap_or_default();
    let digest = Json::read(&text).map(|json| json.digest()).unwrap_or_default();
    let mut tag = "cfg_".to_owned();
    digest[..6].iter().for_each(|b| crate::canonical::push_hex(&mut tag, *b));
    tag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ingest::contract::Contract;

    #[test]
    fn a_tag_changes_with_a_member_and_comes_back_with_it() {
        let contract = Contract::aexy();
        let enrol = contract.enrol.as_ref().unwrap();
        let of = |set: Value| Config::of(enrol, set.as_object().unwrap());
        let by_default = of(json!({})).unwrap();
        assert_eq!(
            by_default.shown(),
            json!({"config_etag": "cfg_0", "sample_interval_s": 60, "screenshot_policy": "off",
            "screenshot_every_n_samples": 5, "idle_threshold_s": 300, "paused": false, "excluded_bundle_ids": []})
        );
        assert_eq!(of(json!({"paused": false})).unwrap(), by_default);
        let set = json!({"paused": true, "sample_interval_s": 120});
        let changed = of(set.clone()).unwrap();
        assert!(changed.tag().len() == 16 && changed.tag() != "cfg_0", "{}", changed.tag());
        assert_eq!(changed, of(set.clone()).unwrap());
        assert_eq!(Value::Object(changed.set(enrol)), set);
        assert_ne!(changed.tag(), of(json!({"paused": true})).unwrap().tag());
        for (wrong, path) in [
            (json!({"sample_interval_s": 0}), "/sample_interval_s"),
            (json!({"sample_interval_s": 601}), "/sample_interval_s"),
            (json!({"screenshot_policy": "always"}), "/screenshot_policy"),
            (json!({"excluded_bundle_ids": [1]}), "/excluded_bundle_ids/0"),
            (json!({"config_etag": "cfg_1"}), "/config_etag"),
        ] {
            assert_eq!(of(wrong), Err(ConfigFault(path.into())));
        }
    }
}
