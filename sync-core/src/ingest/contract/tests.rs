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
