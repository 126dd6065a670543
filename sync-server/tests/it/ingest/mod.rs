//! Ingest over real HTTP, from the program as an operator runs it. Test names begin with the check that they are.

mod aexy_batches;
mod aexy_developers;
mod aexy_devices;
mod aexy_enrich;
mod aexy_evidence;
mod aexy_limits;
mod aexy_world;
mod keys;
mod killed;
mod logins;
mod statsai_acks;
mod statsai_devices;
mod statsai_limits;
mod statsai_order;
mod statsai_recorded;
mod statsai_rollups;
mod world;
