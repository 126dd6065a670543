//! The tables in which migration tools remember what they did to a file. Each device migrates by itself, so these say
//! something of one file only: synced, they would tell other devices that they were migrated, which they were not.

use rusqlite::Connection;

/// Tables, by lowercase name, of the tool that makes them. Where the name alone says too little, all of the columns have
/// to be there.
const LEDGERS: &[(&str, &str, &[&str])] = &[
    ("__diesel_schema_migrations", "Diesel", &[]),
    ("__drizzle_migrations", "Drizzle", &[]),
    ("__efmigrationshistory", "Entity Framework", &[]),
    ("__efmigrationslock", "Entity Framework", &[]),
    ("_prisma_migrations", "Prisma", &[]),
    ("_sqlite_migrations", "sqlite-migrate", &[]),
    ("_sqlx_migrations", "sqlx", &[]),
    ("_yoyo_log", "yoyo", &[]),
    ("_yoyo_migration", "yoyo", &[]),
    ("_yoyo_version", "yoyo", &[]),
    ("aerich", "Aerich", &["app", "content", "version"]),
    ("alembic_version", "Alembic", &[]),
    ("android_metadata", "Android", &[]),
    ("ar_internal_metadata", "Rails", &[]),
    ("atlas_schema_revisions", "Atlas", &[]),
    ("databasechangelog", "Liquibase", &[]),
    ("databasechangeloglock", "Liquibase", &[]),
    ("django_migrations", "Django", &[]),
    ("doctrine_migration_versions", "Doctrine", &[]),
    ("flyway_schema_history", "Flyway", &[]),
    ("goose_db_version", "goose", &[]),
    ("grdb_migrations", "GRDB", &[]),
    ("knex_migrations", "Knex", &[]),
    ("knex_migrations_lock", "Knex", &[]),
    ("kysely_migration", "Kysely", &[]),
    ("kysely_migration_lock", "Kysely", &[]),
    ("migratehistory", "peewee", &["migrated_at", "name"]),
    ("migration_versions", "Doctrine", &["version"]),
    ("migrations", "Laravel", &["batch", "migration"]),
    ("migrations", "TypeORM", &["name", "timestamp"]),
    ("mikro_orm_migrations", "MikroORM", &[]),
    ("phinxlog", "Phinx", &[]),
    ("play_evolutions", "Play", &[]),
    ("play_evolutions_lock", "Play", &[]),
    ("refinery_schema_history", "refinery", &[]),
    ("room_master_table", "Room", &[]),
    ("schema_migrations", "Rails, golang-migrate, dbmate or Ecto", &["version"]),
    ("schema_version", "Flyway", &["checksum", "installed_rank"]),
    ("seaql_migrations", "SeaORM", &[]),
    ("sequelizemeta", "Sequelize", &[]),
    ("south_migrationhistory", "South", &[]),
    ("typeorm_metadata", "TypeORM", &[]),
    ("yoyo_lock", "yoyo", &["ctime", "pid"]),
    ("z_metadata", "Core Data", &["z_plist", "z_version"]),
    ("z_modelcache", "Core Data", &["z_content"]),
    ("z_primarykey", "Core Data", &["z_ent", "z_max"]),
];

/// The tool whose migrations a table of the main database remembers, where it is one.
///
/// # Errors
/// SQLite's.
pub fn tool(conn: &Connection, table: &str) -> rusqlite::Result<Option<&'static str>> {
    let mut column = conn.prepare_cached("SELECT 1 FROM pragma_table_info(?) WHERE name = ? COLLATE NOCASE")?;
    for (_, tool, columns) in LEDGERS.iter().filter(|(name, ..)| name.eq_ignore_ascii_case(table)) {
        let mut all = true;
        for wanted in *columns {
            all &= column.exists([table, wanted])?;
        }
        if all {
            return Ok(Some(tool));
        }
    }
    Ok(None)
}

/// Whether some tool keeps a table of this name, whatever its columns are.
#[must_use]
pub fn may_be(table: &str) -> bool {
    LEDGERS.iter().any(|(name, ..)| name.eq_ignore_ascii_case(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_known_by_name_and_where_needed_by_columns() {
        assert!(LEDGERS.is_sorted_by_key(|(name, ..)| *name), "sorted, so that they can be looked over");
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE django_migrations (id INTEGER PRIMARY KEY);
             CREATE TABLE \"__EFMigrationsHistory\" (MigrationId TEXT PRIMARY KEY);
             CREATE TABLE migrations (id INTEGER PRIMARY KEY, timestamp BIGINT, name VARCHAR);
             CREATE TABLE Z_METADATA (Z_VERSION INTEGER PRIMARY KEY, Z_UUID TEXT, Z_PLIST BLOB);
             CREATE TABLE schema_version (id TEXT PRIMARY KEY, note TEXT);
             CREATE TABLE aerich (id TEXT PRIMARY KEY);",
        )
        .unwrap();
        for (table, expected) in [
            ("django_migrations", Some("Django")),
            ("__EFMigrationsHistory", Some("Entity Framework")),
            ("migrations", Some("TypeORM")),
            ("Z_METADATA", Some("Core Data")),
            ("schema_version", None),
            ("aerich", None),
            ("notes", None),
        ] {
            assert_eq!(tool(&conn, table).unwrap(), expected, "{table}");
        }
    }
}
