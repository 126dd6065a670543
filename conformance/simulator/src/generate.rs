//! Makes a plan from a seed. Each seed has a character: calm or stormy, many crashes or many restores, so
//! that rare things also happen together.

use crate::app::{Kind, Sql};
use crate::dice::Dice;
use crate::plan::{
    AppStep, DeviceSetup, Fault, Joins, Leave, Migration, Plan, Planned, Setup, Step, Verb, VerbStep, Way, Wins,
};

/// The character of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Calm,
    Network,
    Crashes,
    Histories,
    Migrations,
    Accounts,
    Away,
    Crowd,
    Everything,
}

/// The plan of a seed.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    busy_plan(seed, 1)
}

/// The plan of a seed, with so many times the statements where an app is busy.
#[must_use]
pub fn busy_plan(seed: u64, busy: u64) -> Plan {
    let mut dice = Dice::new(seed);
    let d = &mut dice;
    let mood = d.pick(&[
        Mood::Calm,
        Mood::Network,
        Mood::Network,
        Mood::Crashes,
        Mood::Crashes,
        Mood::Histories,
        Mood::Migrations,
        Mood::Accounts,
        Mood::Away,
        Mood::Everything,
    ]);
    let mood = if d.chance(1, 24) { Mood::Crowd } else { mood };
    let devices = 2 + d.below(2) as usize;
    let mut setup = Setup {
        devices: (0..devices)
            .map(|_| DeviceSetup {
                policy: d.pick(&[
                    Wins::Server,
                    Wins::Server,
                    Wins::Client,
                    Wins::Custom,
                    Wins::Columns,
                    Wins::OwnColumns,
                ]),
                foreign_keys: !d.chance(1, 6),
                durable: d.chance(1, 2),
                keep: d.chance(1, 4),
                user: u8::from(mood == Mood::Accounts && d.chance(1, 3)),
                joins: d.pick(&[Joins::Merge, Joins::Merge, Joins::Merge, Joins::TakeRemote, Joins::Fail]),
            })
            .collect(),
        retained: d.pick(&[3, 3, 10, 10_000]),
        page_rows: d.pick(&[2, 5, 20, 1000]),
        bundle_rows: d.pick(&[0, 0, 0, 6]),
        rules: false,
        numbers_again: false,
        twins: false,
        helpers: false,
        way: Way::Clear,
    };
    let mut steps: Vec<Step> = (0..30 + d.below(50)).map(|_| step(d, devices, mood, busy)).collect();
    if mood == Mood::Crowd {
        // Enough rows that a table is compared by ranges.
        let sql = vec![Sql(Kind::Crowd, 0, 0, 0)];
        steps.insert(0, Step::App(AppStep { device: 0, sql, together: false, undone: false }));
    }
    // Last, so that what follows changes nothing else of a seed's plan.
    for step in &mut steps {
        if let Step::Verb(v) = step
            && mood != Mood::Calm
            && d.chance(1, 12)
        {
            v.faults.push(Planned { at: d.below(10) as u32, what: Fault::Tampered(d.below(64) as u32) });
        }
    }
    setup.rules = d.chance(1, 3);
    setup.numbers_again = d.chance(1, 2);
    // They make every write of that table dear.
    setup.helpers = d.chance(1, 3);
    setup.twins = mood != Mood::Crowd && d.chance(1, 8);
    if d.chance(1, 3) {
        let filter = Way::Filter(d.pick(&[0, 400, 403, 404, 406, 502]));
        let way = d.pick(&[Way::NoNames, Way::NoWords, filter, Way::Narrow]);
        // Where only errors say that a history is another one, nothing else can be known.
        let rewritten = matches!(mood, Mood::Histories | Mood::Away | Mood::Everything | Mood::Crowd);
        setup.way = if way == Way::NoWords && rewritten { Way::Narrow } else { way };
    }
    // Such a server names neither scopes nor histories: where these change is for tests that say what is known then.
    if mood == Mood::Calm && setup.way == Way::Clear && d.chance(3, 4) {
        setup.way = Way::June;
        // It has no such limit, and says nothing of types that no column declares.
        setup.bundle_rows = 0;
        steps.iter_mut().for_each(declared_types);
        // Nor whose a file is that comes back to it.
        steps.retain(|s| !matches!(s, Step::Detach(..)));
    }
    Plan { seed, setup, steps }
}

/// Statements that write other types than their columns declare write others. Numbers that a double cannot hold are in few
/// rows, which everybody edits.
fn declared_types(step: &mut Step) {
    let one = |app: &mut AppStep| {
        for sql in &mut app.sql {
            match sql.0 {
                Kind::SettingPut => *sql = Sql(Kind::PersonValues, sql.1 % 3, sql.2, 1),
                Kind::CounterLabel => *sql = Sql(Kind::PersonName, sql.1 % 3, sql.2, sql.3),
                Kind::PersonInsert => sql.1 %= 3,
                Kind::PersonValues => sql.3 %= 75,
                _ => {}
            }
        }
    };
    match step {
        Step::App(app) | Step::DropTrigger(_, app) => one(app),
        Step::Verb(v) => v.faults.iter_mut().for_each(|f| {
            if let Fault::App(app) = &mut f.what {
                one(app);
            }
        }),
        _ => {}
    }
}

fn step(d: &mut Dice, devices: usize, mood: Mood, busy: u64) -> Step {
    let device = d.below(devices as u64) as usize;
    let rare = d.below(100);
    match mood {
        Mood::Histories | Mood::Everything if rare < 4 => return Step::Backup,
        Mood::Histories | Mood::Everything if rare < 8 => return Step::Restore,
        Mood::Histories | Mood::Everything if rare < 9 => return Step::Wipe,
        Mood::Histories | Mood::Everything if rare < 12 => return Step::BackupDevice(device),
        Mood::Histories | Mood::Everything if rare < 15 => return Step::RestoreDevice(device),
        Mood::Histories | Mood::Everything if rare < 16 => return Step::CopyDevice(device),
        Mood::Migrations | Mood::Everything if (16..24).contains(&rare) => {
            return Step::Migrate(device, migration(d));
        }
        Mood::Migrations | Mood::Everything if (27..30).contains(&rare) => {
            return Step::DropTrigger(d.below(256) as u8, app(d, device, busy));
        }
        Mood::Migrations | Mood::Everything if (24..27).contains(&rare) => return Step::MigrateServer,
        Mood::Away if rare < 5 => return Step::Away,
        Mood::Away if rare < 13 => return Step::Back,
        Mood::Crashes if rare < 3 => return Step::Replace(device),
        Mood::Accounts if rare < 5 => return Step::SwitchUser(device, d.below(2) as u8, leave(d), joins(d)),
        Mood::Accounts if rare < 10 => return Step::Detach(device, Leave::Export),
        Mood::Accounts if rare < 14 => {
            let faults = (0..d.below(2)).map(|_| planned(d, devices, mood)).collect();
            return Step::Verb(VerbStep { device, verb: Verb::Import, faults });
        }
        _ => {}
    }
    match rare {
        30..33 => Step::Wait(d.pick(&[1_000, 60_000, 400_000, 1_000_000, 90_000_000])),
        33..35 => Step::Reopen(device),
        35..36 => Step::RestartServer,
        36..37 if mood == Mood::Everything && d.chance(1, 2) => {
            Step::SwitchUser(device, d.below(2) as u8, leave(d), joins(d))
        }
        36..37 => Step::Detach(device, leave(d)),
        37..39 => Step::Inbox(device, d.chance(2, 3)),
        39..40 => match d.below(4) {
            0 => Step::Retain(d.pick(&[1, 3, 10, 10_000])),
            _ => Step::Damage(device, d.chance(1, 2)),
        },
        40..73 => {
            let verb = match d.below(16) {
                _ if mood == Mood::Crowd && d.chance(1, 3) => d.pick(&[Verb::Verify, Verb::Repair]),
                0..9 => Verb::Sync,
                9 => Verb::Push,
                10 => Verb::Pull,
                11 => Verb::Rebuild,
                12 => Verb::Brief,
                13 => Verb::Frugal,
                14 => d.pick(&[Verb::Attach, Verb::Import]),
                _ => d.pick(&[Verb::Verify, Verb::Repair]),
            };
            let n = match mood {
                Mood::Calm => d.pick(&[0, 0, 0, 1]),
                _ => d.pick(&[0, 1, 1, 2, 3]),
            };
            let faults = (0..n).map(|_| planned(d, devices, mood)).collect();
            Step::Verb(VerbStep { device, verb, faults })
        }
        _ => Step::App(app(d, device, busy)),
    }
}

fn leave(d: &mut Dice) -> Leave {
    d.pick(&[Leave::Clean, Leave::Keep, Leave::Discard, Leave::Export])
}

fn joins(d: &mut Dice) -> Joins {
    d.pick(&[Joins::Merge, Joins::TakeRemote, Joins::Fail])
}

fn migration(d: &mut Dice) -> Migration {
    d.pick(Migration::ALL)
}

fn app(d: &mut Dice, device: usize, busy: u64) -> AppStep {
    // Now and then an app is busy.
    let n = if d.chance(1, 3) { (20 + d.below(100)) * busy } else { 1 + d.below(6) };
    let sql = (0..n).map(|_| sql(d)).collect();
    let together = d.chance(1, 2);
    AppStep { device, sql, together, undone: together && d.chance(1, 6) }
}

fn sql(d: &mut Dice) -> Sql {
    let kind = d.pick(Kind::ALL);
    // Bulk writes are as many rows as all others together.
    let kind = match kind {
        Kind::PeopleInsert if d.chance(2, 3) => Kind::PersonInsert,
        Kind::Crowd => Kind::PersonInsert,
        kind => kind,
    };
    Sql(kind, d.below(7) as u8, d.below(7) as u8, d.below(1000) as u16)
}

fn planned(d: &mut Dice, devices: usize, mood: Mood) -> Planned {
    let at = match d.below(4) {
        0 => d.below(3),
        1 => d.below(40),
        _ => d.below(14),
    } as u32;
    Planned { at, what: fault(d, devices, mood) }
}

fn fault(d: &mut Dice, devices: usize, mood: Mood) -> Fault {
    let other = d.below(devices as u64) as usize;
    let n = d.below(64) as u32;
    let all = matches!(mood, Mood::Everything | Mood::Crowd);
    let weight = |m: Mood, is: u64, otherwise: u64| if mood == m || all { is } else { otherwise };
    let (network, crashes, history) =
        (weight(Mood::Network, 12, 4), weight(Mood::Crashes, 10, 3), weight(Mood::Histories, 2, 0));
    let migrations = weight(Mood::Migrations, 4, 0);
    let total = network + crashes + history + migrations + 8;
    let mut roll = d.below(total);
    if roll < network {
        return match d.below(8) {
            0 => Fault::RequestLost,
            7 => Fault::Stale,
            1 | 2 => Fault::ReplyLost,
            3 => Fault::Duplicated,
            4 => Fault::Late(n),
            5 => Fault::Cut(d.below(600) as u32),
            _ => Fault::Status(d.pick(&[500, 502, 503, 429])),
        };
    }
    roll -= network;
    if roll < crashes {
        return match d.below(8) {
            0..3 => Fault::CrashClient,
            3 | 4 => Fault::PowerCut(n),
            _ => Fault::CrashServer(n as usize),
        };
    }
    roll -= crashes;
    if roll < history {
        return if d.chance(2, 3) { Fault::Restore } else { Fault::Wipe };
    }
    roll -= history;
    if roll < migrations {
        return Fault::Migrate(migration(d));
    }
    match d.below(9) {
        0..4 => Fault::App(app(d, other, 1)),
        4 | 5 => Fault::Sync(other),
        6 => Fault::Busy(n),
        7 => Fault::Clock(d.pick(&[-5_000, 20_000, 1_000_000, 90_000_000])),
        _ if d.chance(1, 2) => Fault::DiskFull(n),
        _ => Fault::RestartServer,
    }
}
