//! Every verb on every backend against the plain loops. The same suite runs in browsers.

use mobilellm_web::backend::cpu::naive::Naive;
use mobilellm_web::conformance::check;

/// The suite itself: the oracle agrees with itself, to the bit.
#[test]
fn oracle() {
    let report = pollster::block_on(check(|config| Ok(Naive::new(config)), 0.0)).unwrap();
    println!("{report}");
    report.into_result().unwrap();
}
