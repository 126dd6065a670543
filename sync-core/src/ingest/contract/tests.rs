use super::*;

const TOML: &str = include_str!("../contracts/statsai.toml");
const SCHEMA: &str = include_str!("../contracts/sync_batch.v1.json");

fn load(toml: &str, schema: &str) -> Result<Contract, ContractError> {
    Contract::load(toml, &[("sync_batch.v1.json", schema)])
}

#[test]
fn the_built_in_contract_loads() {
    let contract = Contract::statsai();
    let names: Vec<&str> = contract.kinds.iter().map(|k| k.name.as_str()).collect();
    let expected = ["sources", "accounts", "source_account_assignments", "subscriptions", "events", "summaries"];
    assert_eq!(names, expected);
    assert_eq!(contract.kind("events").unwrap().strip.len(), 3);
    assert_eq!(contract.versions[0].schema.text(), SCHEMA);
}

/// XC-04
#[test]
fn what_the_loader_refuses() {
    let changed = |from: &str, to: &str| {
        assert!(TOML.contains(from), "{from}");
        load(&TOML.replacen(from, to, 1), SCHEMA).map(|c| c.name).unwrap_err()
    };
    for (from, to) in [
        ("id = \"/source_id\"\n", ""),
        ("mode", "mood"),
        ("[[route]]\nmethod", "[[route]]\nmood = 1\nmethod"),
        ("at = \"/notes\"", "at = \"notes\""),
        ("role = \"status\"", "role = \"unheard of\""),
    ] {
        let (from, to) = if from == "mode" { ("name = \"statsai", "mood = 1\nname = \"statsai") } else { (from, to) };
        assert!(matches!(changed(from, to), ContractError::Toml(_)), "{from}");
    }
    for (from, to) in [
        ("id = \"/source_id\"", "id = \"/nothing\""),
        ("\"batch:/created_at\"", "\"batch:/nothing\""),
        ("hash_ignore = [\"/imported_at\"]", "hash_ignore = [\"/usage/nothing\"]"),
        ("at = \"/notes\"", "at = \"/nothing\""),
        ("unless_at = \"/identity_source\"", "unless_at = \"/nothing\""),
        ("day = \"/period_start\"", "day = \"/nothing\""),
        ("batch = \"/batch_id\"", "batch = \"/nothing\""),
        ("name = \"subscriptions\"", "name = \"nothings\""),
    ] {
        let e = changed(from, to);
        assert!(matches!(&e, ContractError::Pointer { .. }) && e.to_string().contains("/nothing"), "{from}: {e}");
    }
    let e = changed("id = \"/source_id\"", "id = \"/adapter_id\"");
    assert!(matches!(e, ContractError::Optional { .. }), "{e}");
    let e = changed("from = \"summaries\"", "from = \"nothing\"");
    assert_eq!(e, ContractError::RollupKind("nothing".into()));
    let e = changed("path = \"/api/sync/status\"", "path = \"/api/dashboard\"");
    assert!(matches!(e, ContractError::Route { .. }), "{e}");
    assert_eq!(changed("\"size\", \"auth\"", "\"auth\", \"size\""), ContractError::Order);
    assert_eq!(changed("\"receipt\", ", ""), ContractError::Order);
    assert!(load(&TOML.replace("\"receipt\", \"policy\"", "\"policy\", \"receipt\""), SCHEMA).is_ok());
    assert!(matches!(load(TOML, "{"), Err(ContractError::Schema(_))));
    assert!(matches!(Contract::load(TOML, &[]), Err(ContractError::NoSchema(_))));
    let twice = [Contract::statsai(), Contract::statsai()];
    assert!(matches!(check_routes(&twice), Err(ContractError::Route { .. })));
}

/// XC-04, of what contracts with enrolled devices declare.
#[test]
fn what_the_loader_refuses_where_records_are_rejected_one_by_one() {
    const TOML: &str = include_str!("../contracts/aexy.toml");
    const BATCH: &str = include_str!("../contracts/events_batch.v1.json");
    const CONFIG: &str = include_str!("../contracts/device_config.v1.json");
    let load = |toml: &str, config: &str| {
        Contract::load(toml, &[("events_batch.v1.json", BATCH), ("device_config.v1.json", config)]).map(|c| c.name)
    };
    assert_eq!(load(TOML, CONFIG), Ok("aexy.events_batch".into()));
    let changed = |from: &str, to: &str| {
        assert!(TOML.contains(from), "{from}");
        load(&TOML.replacen(from, to, 1), CONFIG).unwrap_err()
    };
    assert_eq!(changed("\"schema\", \"version\"", "\"version\", \"schema\""), ContractError::Order);
    assert_eq!(changed("\"member\", ", ""), ContractError::Order);
    // Only with gates, kinds, envelope and enrolment alike does it work.
    assert_eq!(changed("rejects = \"per_record\"", "rejects = \"whole\""), ContractError::Order);
    assert_eq!(
        changed("[envelope]", "[envelope]\nbatch = \"/device_id\"\nreplay = \"all_duplicates\""),
        ContractError::Rejects
    );
    assert_eq!(changed("[hook]\nname = \"enrich\"\nseconds = 60\n", ""), ContractError::Rejects);
    for (from, to) in [("seq = \"/client_seq\"", "seq = \"/nothing\""), ("time = \"/ts\"", "time = \"/nothing\"")] {
        assert!(matches!(changed(from, to), ContractError::Pointer { .. }), "{from}");
    }
    assert!(matches!(changed("config = \"device_config", "config = \"other"), ContractError::NoSchema(_)));
    let without = CONFIG.replacen(", \"default\": 60", "", 1);
    assert_ne!(without, CONFIG);
    assert_eq!(load(TOML, &without), Err(ContractError::Config("sample_interval_s".into())));
    let both = [Contract::statsai(), Contract::aexy()];
    assert_eq!(check_routes(&both), Ok(()));
    for (stream, contract) in Contract::STREAMS.iter().zip(both) {
        assert_eq!((Contract::of(stream).unwrap().name, contract.stream.as_str()), (contract.name.clone(), *stream));
    }
}
