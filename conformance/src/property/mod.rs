//! Properties: random histories against a model, random requests against every endpoint. A failure
//! is shrunk, so that its transcript is short.

mod hostile;
pub(crate) mod model;
mod sources;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::check::Check;
use crate::lab::{Checked, Lab, Stop};

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check::must(
            "property.sources",
            "several sources at random do what a model of the protocol does",
            &[
                "spec.1.sequence",
                "spec.1.version",
                "spec.1.tuple",
                "seed.commit.atomic",
                "seed.commit.push_conflict",
                "seed.pull.complete",
                "seed.snapshot.frozen",
                "spec.5.sha256",
            ],
            sources::check,
        )
        .slow(),
        Check::must(
            "property.hostile",
            "random malformed requests never cause a fault, show other users' rows, or commit a part",
            &["spec.3.malformed", "spec.1.isolation", "seed.commit.atomic"],
            hostile::check,
        )
        .slow(),
    ]
}

/// Runs a property on random inputs until one fails, then on ever simpler ones that still fail.
fn hold<S: Strategy>(lab: &Lab<'_>, cases: u32, strategy: &S, property: impl Fn(&S::Value) -> Checked) -> Checked {
    let seed = lab.subject.seed;
    let config = Config { cases, failure_persistence: None, max_shrink_iters: SHRINK, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    // What stopped the last failing run, with its transcript; proptest itself keeps only the input.
    let last = std::cell::RefCell::new(None);
    let result = runner.run(strategy, |input| {
        lab.forget();
        match property(&input) {
            Ok(()) => Ok(()),
            Err(Stop::Fail { expected, got }) => {
                *last.borrow_mut() = Some((expected, got, lab.exchanges()));
                Err(TestCaseError::fail("not as the model says"))
            }
            // Nothing can be said of this input, and of no simpler one.
            Err(stop) => Err(TestCaseError::reject(match stop {
                Stop::NotOffered(why) | Stop::Inconclusive(why) => why,
                Stop::Fail { .. } => String::new(),
            })),
        }
    });
    match (result, last.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(TestError::Fail(..)), Some((expected, got, exchanges))) => {
            lab.restore(exchanges);
            Err(Stop::Fail { expected, got: format!("{got} (seed {seed})") })
        }
        (Err(e), _) => Err(Stop::Inconclusive(format!("seed {seed}: {e}"))),
    }
}

/// Simpler inputs that are tried after a failure: each costs a whole run.
const SHRINK: u32 = 120;
