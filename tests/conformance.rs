//! Every verb on every backend against the plain loops. The same suite runs in browsers.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::backend::cpu::naive::Naive;
use mobilellm_web::conformance::check;

/// The suite itself: the oracle agrees with itself, to the bit.
#[test]
fn oracle() {
    let report = pollster::block_on(check(|config| Ok(Naive::new(config)), 0.0)).unwrap();
    println!("{report}");
    report.into_result().unwrap();
}

#[test]
fn cpu() {
    for threads in [1, 3] {
        let make = |config: &_| Ok(Cpu::with_threads(config, Precision::F16, threads));
        let report = pollster::block_on(check(make, 1e-4)).unwrap();
        println!("{threads} threads: {report}");
        report.into_result().unwrap();
    }
}
