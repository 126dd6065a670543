//! Runs plans: one, or as many seeds as one likes; shrinks what fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cover::Cover;
use crate::device::lock;
use crate::plan::{Fault, Plan, Step};
use crate::world::{Violation, World};

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What it went through.
    pub cover: Cover,
    /// What it broke.
    pub violation: Option<Violation>,
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let world = World::new(plan, trace);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        plan.steps.iter().try_for_each(|s| world.step(s))?;
        world.settle()
    }));
    let violation = match ended {
        Ok(Ok(())) => None,
        Ok(Err(v)) => Some(v),
        Err(p) => {
            let text = p.downcast_ref::<String>().cloned();
            let text = text.or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(Violation::new("panic", text.unwrap_or_default()))
        }
    };
    let cover = lock(&world.cover).clone();
    Outcome { cover, violation }
}

/// Operations of a run: statements of apps, verbs, other steps, and faults.
#[must_use]
pub fn operations(cover: &Cover) -> u64 {
    cover.total("sql") + cover.total("step") - cover.count("step", "app") + cover.total("fault")
}

/// The smallest plan found that breaks the same invariant: steps, faults and statements taken away as long as
/// it does.
#[must_use]
pub fn shrink(plan: &Plan, invariant: &'static str, mut tries: u32) -> Plan {
    let mut best = plan.clone();
    let mut fails = |p: &Plan| {
        if tries == 0 {
            return false;
        }
        tries -= 1;
        run(p, false).violation.is_some_and(|v| v.invariant == invariant)
    };
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut any = false;
        while at < best.steps.len() {
            let mut less = best.clone();
            less.steps.drain(at..(at + size).min(less.steps.len()));
            if fails(&less) {
                best = less;
                any = true;
            } else {
                at += size;
            }
        }
        if !any || size > 1 {
            size /= 2;
        }
    }
    loop {
        let before = best.clone();
        for i in 0..best.steps.len() {
            let mut n = 0;
            while n < parts(&best.steps[i]) {
                let mut less = best.clone();
                without(&mut less.steps[i], n);
                if fails(&less) {
                    best = less;
                } else {
                    n += 1;
                }
            }
        }
        if best == before {
            return best;
        }
    }
}

/// What can be taken from a step: its statements, its faults, and then the statements of these.
fn parts(step: &Step) -> usize {
    match step {
        Step::App(a) | Step::DropTrigger(_, a) => a.sql.len(),
        Step::Verb(v) => v.faults.len() + v.faults.iter().map(|f| statements(&f.what)).sum::<usize>(),
        _ => 0,
    }
}

fn without(step: &mut Step, n: usize) {
    match step {
        Step::App(a) | Step::DropTrigger(_, a) => drop(a.sql.remove(n)),
        Step::Verb(v) if n < v.faults.len() => drop(v.faults.remove(n)),
        Step::Verb(v) => {
            let mut n = n - v.faults.len();
            for f in &mut v.faults {
                if let Fault::App(a) = &mut f.what
                    && n < a.sql.len()
                {
                    a.sql.remove(n);
                    return;
                }
                n -= statements(&f.what);
            }
        }
        _ => {}
    }
}

fn statements(fault: &Fault) -> usize {
    if let Fault::App(a) = fault { a.sql.len() } else { 0 }
}
