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

/// The GPU, through whatever driver there is. Without one the test fails: leave out the feature `gpu` there.
#[cfg(feature = "gpu")]
mod gpu {
    use super::check;
    use mobilellm_web::backend::gpu::{Device, DeviceOptions, Gpu};

    fn run(options: &DeviceOptions) {
        let device = pollster::block_on(Device::open(options)).unwrap();
        // values are held as f16
        let report = pollster::block_on(check(|config| Gpu::new(&device, config), 1e-3)).unwrap();
        println!("{} {:?}: {report}", device.name(), device.features());
        report.into_result().unwrap();
    }

    #[test]
    fn whole() {
        run(&DeviceOptions::default());
    }

    /// Tables over the binding limit.
    #[test]
    fn split() {
        run(&DeviceOptions { max_table_binding: Some(100_000), ..DeviceOptions::default() });
    }

    /// Reductions in workgroup memory.
    #[test]
    fn without_subgroups() {
        run(&DeviceOptions { no_subgroups: true, ..DeviceOptions::default() });
    }
}
