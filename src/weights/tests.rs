//! The policy against servers and stores that fail. Pieces are small here ([`PIECE`]), time is virtual.

use super::checkpoint::{Checkpoint, Options, Report};
use super::digest::Digest;
use super::file::{FileMeta, PIECE};
use super::http::{HttpSource, Request};
use super::models;
use super::plan::{Plan, TensorPlan};
use super::progress::{Event, Phase, Progress};
use super::record::Record;
use super::twins::{Clock, Fault, File, MemoryStore, Net, Server, both};
use super::{Abort, Bytes, Dtype, TensorInfo, TensorSink};
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const URL: &str = "https://host.test/model/";

type Tensors = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Sink {
    infos: Vec<TensorInfo>,
    bytes: Vec<Vec<u8>>,
    unwanted: Option<String>,
}

impl TensorSink for Sink {
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
        self.infos = tensors.to_vec();
        self.bytes = vec![Vec::new(); tensors.len()];
        Ok(tensors.iter().map(|t| Some(&t.name) != self.unwanted.as_ref()).collect())
    }

    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()> {
        assert_eq!(offset, self.bytes[tensor].len() as u64, "out of order");
        let mut part = vec![0; bytes.len()];
        bytes.read(0, &mut part);
        self.bytes[tensor].extend(part);
        Ok(())
    }
}

impl Sink {
    fn tensors(self) -> Tensors {
        self.infos.into_iter().map(|t| t.name).zip(self.bytes).collect()
    }
}

/// Bytes of a safetensors file.
fn safetensors(tensors: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, bytes) in tensors {
        let offsets = [at, at + bytes.len()];
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F16", "shape": [bytes.len() / 2], "data_offsets": offsets}),
        );
        at += bytes.len();
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(tensors.iter().flat_map(|(_, bytes)| bytes));
    file
}

fn hashed(name: &str, bytes: &[u8]) -> FileMeta {
    let pieces =
        if bytes.len() as u64 > PIECE { bytes.chunks(PIECE as usize).map(Digest::of).collect() } else { vec![] };
    FileMeta { sha256: Some(Digest::of(bytes)), pieces, ..FileMeta::new(name, bytes.len() as u64) }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    Single,
    Sharded,
    Manifest,
    Hub,
}

/// A random model: its files by name, and its tensors.
fn model(rng: &mut fastrand::Rng, layout: Layout) -> (BTreeMap<String, Vec<u8>>, Tensors) {
    let count = rng.usize(3..9);
    let tensors: Vec<(String, Vec<u8>)> =
        (0..count).map(|n| (format!("t{n}"), (0..rng.usize(0..4000) * 2).map(|_| rng.u8(..)).collect())).collect();
    let mut files = BTreeMap::new();
    if layout == Layout::Single || layout == Layout::Hub {
        files.insert("model.safetensors".to_string(), safetensors(&tensors));
    } else {
        let cut = rng.usize(1..count);
        let mut map = serde_json::Map::new();
        for (n, part) in [&tensors[..cut], &tensors[cut..]].into_iter().enumerate() {
            let name = format!("model-0000{}-of-00002.safetensors", n + 1);
            part.iter().for_each(|(t, _)| drop(map.insert(t.clone(), name.clone().into())));
            files.insert(name, safetensors(part));
        }
        let index = serde_json::to_vec(&serde_json::json!({"metadata": {}, "weight_map": map})).unwrap();
        files.insert("model.safetensors.index.json".into(), index);
    }
    files.insert("config.json".into(), br#"{"model_type":"llama"}"#.to_vec());
    (files, tensors.into_iter().collect())
}

fn manifest(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut plan = Plan::default();
    for (name, bytes) in files {
        if !name.ends_with(".safetensors") {
            plan.others.push(hashed(name, bytes));
            continue;
        }
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (tensors, _) = super::formats::safetensors::parse_header(name, &bytes[8..header]).unwrap();
        let file = plan.files.len();
        plan.tensors.extend(tensors.into_iter().map(|(info, start)| TensorPlan { info, file, start }));
        plan.files.push(hashed(name, bytes));
    }
    plan.to_manifest().unwrap()
}

fn publish(server: &Server, layout: Layout, files: &BTreeMap<String, Vec<u8>>, generation: usize) {
    if layout == Layout::Hub {
        let base = "https://hub.test/";
        server.put(&format!("{base}api/models/org/name/revision/main"), br#"{"sha":"c0ffee"}"#, None);
        let tree: Vec<_> = files
            .iter()
            .map(|(name, bytes)| {
                let lfs =
                    serde_json::json!({"oid": Digest::of(bytes).to_string(), "size": bytes.len(), "pointerSize": 134});
                let mut entry = serde_json::json!({"type": "file", "path": name, "size": bytes.len(), "oid": "0a"});
                if name.ends_with(".safetensors") {
                    entry["lfs"] = lfs;
                }
                entry
            })
            .collect();
        server.put(&format!("{base}api/models/org/name/tree/c0ffee"), &serde_json::to_vec(&tree).unwrap(), None);
        for (name, bytes) in files {
            server.put(&format!("{base}org/name/resolve/c0ffee/{name}"), bytes, Some(&format!("\"{name}\"")));
        }
        return;
    }
    for (name, bytes) in files {
        server.put(&format!("{URL}{name}"), bytes, Some(&format!("\"{generation}-{name}\"")));
    }
    if layout == Layout::Manifest {
        server.put(&format!("{URL}manifest.json"), manifest(files).as_bytes(), None);
    }
}

struct World {
    clock: Clock,
    server: Rc<Server>,
    store: MemoryStore,
    events: Rc<RefCell<Vec<Event>>>,
}

impl World {
    fn new() -> Self {
        let (clock, server, store) = (Clock::default(), Rc::new(Server::default()), MemoryStore::default());
        Self { clock, server, store, events: Rc::default() }
    }

    fn with(layout: Layout, seed: u64, least: usize) -> (Self, BTreeMap<String, Vec<u8>>, Tensors) {
        let world = Self::new();
        let mut models = (seed..).step_by(10_000).map(|seed| model(&mut fastrand::Rng::with_seed(seed), layout));
        let size = |tensors: &Tensors| tensors.values().map(Vec::len).sum::<usize>();
        let (files, tensors) = models.find(|(_, tensors)| size(tensors) > least).unwrap();
        publish(&world.server, layout, &files, 1);
        (world, files, tensors)
    }

    fn source(&self, layout: Layout) -> HttpSource<Net, Clock> {
        let net = Net(self.server.clone(), self.clock.clone());
        match layout {
            Layout::Hub => {
                HttpSource::hub(net, self.clock.clone(), "https://hub.test", "org/name", "main", None, &[]).unwrap()
            }
            _ => HttpSource::folder(net, self.clock.clone(), URL, None, &[]).unwrap(),
        }
    }

    async fn open(
        &self,
        layout: Layout,
        options: Options,
    ) -> Result<Checkpoint<Clock, HttpSource<Net, Clock>, MemoryStore>> {
        let events = self.events.clone();
        let source = self.source(layout);
        Checkpoint::open(self.clock.clone(), source, self.store.clone(), options, move |e| events.borrow_mut().push(e))
            .await
    }

    async fn load_with(&self, layout: Layout, options: Options) -> Result<(Tensors, Report)> {
        let checkpoint = self.open(layout, options).await?;
        let config = checkpoint.file("config.json").await?;
        assert_eq!(config.as_deref(), Some(&br#"{"model_type":"llama"}"#[..]));
        let mut sink = Sink::default();
        let report = checkpoint.load(&mut sink).await?;
        Ok((sink.tensors(), report))
    }

    fn load(&self, layout: Layout) -> Result<(Tensors, Report)> {
        self.clock.run(self.load_with(layout, Options::default()))
    }

    fn faults(&self, choose: impl FnMut(&Request) -> Option<Fault> + 'static) {
        *self.server.faults.borrow_mut() = Some(Box::new(choose));
    }

    fn no_faults(&self) {
        *self.server.faults.borrow_mut() = None;
        *self.store.0.failing.borrow_mut() = None;
    }

    /// Bytes of the stored pieces of weights (the small files' keys are known).
    fn stored(&self) -> u64 {
        let small = Digest::of(br#"{"model_type":"llama"}"#);
        let pieces = self.store.0.pieces.borrow();
        pieces.iter().filter(|(_, (_, sha))| *sha != small).map(|(_, (bytes, _))| bytes.len() as u64).sum()
    }

    fn saw(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.events.borrow().iter().filter(|e| matches(e)).count()
    }
}

/// Whatever goes wrong: the right bytes or a typed error; and a later load without faults completes, fetches only
/// what is missing, and the one after that needs no network.
#[test]
fn fault_schedules() {
    let (mut failed, mut retried, mut repaired) = (0, 0, 0);
    for seed in 0..1500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let layout = [Layout::Single, Layout::Sharded, Layout::Manifest, Layout::Hub][seed as usize % 4];
        let (world, _, old) = World::with(layout, seed, 0);
        world.server.no_ranges.set(rng.u8(..) < 40);
        let replaced = matches!(layout, Layout::Single | Layout::Sharded) && rng.bool();
        let mut new = None;
        if replaced {
            let (files, tensors) = model(&mut fastrand::Rng::with_seed(seed + 1_000_000), layout);
            let next = Server::default();
            publish(&next, layout, &files, 2);
            world.server.replacements.replace(next.files.take());
            new = Some(tensors);
        }
        let severity = rng.f64() * 0.9;
        let hashes = matches!(layout, Layout::Manifest | Layout::Hub);
        let mut dice = rng.fork();
        world.faults(move |request| {
            if dice.f64() > severity {
                return None;
            }
            let at = dice.usize(0..6000);
            // Without a hash a flipped byte cannot be told from a right one, nor a short index from a long one.
            let weights = request.url.contains(".safetensors") && !request.url.ends_with(".json");
            Some(match dice.u32(0..12) {
                0 => Fault::NoConnection,
                1 => Fault::Status([500, 502, 503, 408][dice.usize(0..4)]),
                2 => Fault::RetryAfter(dice.f64() * 3000.0),
                3 => Fault::Cut(at),
                4 if weights => Fault::Ends(at),
                5 if weights && hashes => Fault::Flip(at),
                6 => Fault::StalledHead,
                7 => Fault::StalledBody(at),
                8 => Fault::Whole,
                9 if weights => Fault::OtherRange,
                10 => Fault::Status(416),
                11 if replaced && dice.bool() => Fault::Replaced,
                _ => Fault::Lies,
            })
        });
        let mut dice = rng.fork();
        let storage = if rng.bool() { rng.f64() * 0.05 } else { 0.0 };
        *world.store.0.failing.borrow_mut() = Some(Box::new(move |_| dice.f64() < storage));

        let right = |got: &Tensors| *got == old || Some(got) == new.as_ref();
        match world.load(layout) {
            Ok((tensors, _)) => assert!(right(&tensors), "seed {seed}: wrong bytes"),
            Err(Error::Network { .. } | Error::Integrity { .. }) => failed += 1,
            // An index and a shard of two generations.
            Err(Error::Tensor { .. } | Error::Checkpoint { .. } | Error::FileNotFound { .. }) if replaced => {
                failed += 1
            }
            // A flipped byte in a header.
            Err(Error::Tensor { .. } | Error::Checkpoint { .. }) if layout == Layout::Hub => failed += 1,
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
        retried += usize::from(world.server.requests.borrow().len() > 12);

        world.no_faults();
        world.server.no_ranges.set(false);
        let files = world.server.files.borrow().clone();
        world.server.sent.take();
        world.events.take();
        let before = world.store.0.pieces.borrow().clone();
        let (tensors, report) = world.load(layout).unwrap_or_else(|e| panic!("seed {seed}: later load: {e:?}"));
        assert!(right(&tensors), "seed {seed}: later load: wrong bytes");
        assert!(report.stored && report.total_bytes == report.cached_bytes + report.downloaded_bytes, "seed {seed}");
        let after = world.store.0.pieces.borrow().clone();
        let small = Digest::of(br#"{"model_type":"llama"}"#);
        let missing = after.iter().filter(|(k, (_, sha))| !before.contains_key(*k) && *sha != small);
        let missing: u64 = missing.map(|(_, (bytes, _))| bytes.len() as u64).sum();
        if world.saw(|e| matches!(e, Event::Repaired { .. })) > 0 {
            // Only the hash of the whole file told that a stored piece was damaged on its way.
            assert!(layout == Layout::Hub, "seed {seed}");
            repaired += 1;
            continue;
        }
        assert_eq!(report.downloaded_bytes, missing, "seed {seed}");
        // On the wire: the missing pieces and, to plan, the first bytes of each file.
        let weights = |url: &str| url.ends_with(".safetensors");
        let heads: u64 = files.iter().filter(|(u, _)| weights(u)).map(|(_, f)| (f.bytes.len() as u64).min(4096)).sum();
        let sent: usize = world.server.sent.borrow().iter().filter(|(u, _)| weights(u)).map(|(_, n)| n).sum();
        assert!(sent as u64 <= missing + heads, "seed {seed}: {sent} bytes for {missing} missing");

        world.server.requests.take();
        world.faults(|_| Some(Fault::NoConnection));
        let (again, report) = world.load(layout).unwrap_or_else(|e| panic!("seed {seed}: offline: {e:?}"));
        assert!(again == tensors && report.downloaded_bytes == 0, "seed {seed}");
        assert_eq!(world.server.requests.take(), [], "seed {seed}: a complete model needs no network");
    }
    let counts = (failed, retried, repaired);
    assert!(failed > 50 && failed < 1200 && retried > 500 && repaired < 100, "schedules that test much: {counts:?}");
}

/// A record that was damaged in the store is as good as none: the model is planned anew, and what is stored is used.
#[test]
fn damaged_records_are_planned_anew() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    let (_, whole) = world.load(Layout::Single).unwrap();
    let good = world.store.0.records.borrow()[URL].clone();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let mut bytes = good.clone().into_bytes();
        let at = rng.usize(..bytes.len());
        match rng.u8(..3) {
            0 => bytes[at] = if bytes[at].is_ascii_digit() { (bytes[at] - b'0' + 1) % 10 + b'0' } else { b'~' },
            1 => bytes.truncate(at),
            _ => drop(bytes.remove(at)),
        }
        world.store.0.records.borrow_mut().insert(URL.into(), String::from_utf8(bytes).unwrap());
        assert!(world.clock.run(models::list(&world.store)).unwrap().is_empty());
        let (got, report) = world.load(Layout::Single).unwrap();
        assert!(got == tensors && report.cached_bytes == whole.total_bytes, "{report:?}");
    }
}

/// A truncated config.json that its server calls whole is not kept for later loads.
#[test]
fn a_broken_small_file_does_not_stick() {
    for layout in [Layout::Single, Layout::Manifest] {
        let (world, _, tensors) = World::with(layout, 3, 30_000);
        world.faults(|r| r.url.ends_with("config.json").then_some(Fault::Truncated(9)));
        let read = world.clock.run(async {
            let checkpoint = world.open(layout, Options::default()).await?;
            checkpoint.file("config.json").await
        });
        match layout {
            // Its hash is known: it was asked for again and again.
            Layout::Manifest => assert!(matches!(read, Err(Error::Integrity { .. })), "{read:?}"),
            _ => assert_eq!(read.unwrap().unwrap().len(), 9),
        }
        world.no_faults();
        assert_eq!(world.load(layout).unwrap().0, tensors);
    }
}

/// Two tabs at once: one downloads, the other waits and reads what the first has stored.
#[test]
fn two_tabs_download_once() {
    for layout in [Layout::Single, Layout::Manifest, Layout::Hub] {
        let (world, _, tensors) = World::with(layout, 7, 30_000);
        let load = || world.load_with(layout, Options::default());
        let (a, b) = world.clock.run(both(load(), load()));
        let ((a, a_report), (b, b_report)) = (a.unwrap(), b.unwrap());
        assert!(a == tensors && b == tensors);
        assert_eq!(a_report.downloaded_bytes + b_report.downloaded_bytes, a_report.total_bytes);
        assert_eq!(world.saw(|e| *e == Event::Waiting), 1);
    }
    // A host that gives no version: the bytes are those of the session that the other one waited for.
    let (world, files, tensors) = World::with(Layout::Single, 7, 30_000);
    for (name, bytes) in &files {
        world.server.put(&format!("{URL}{name}"), bytes, None);
    }
    let load = || world.load_with(Layout::Single, Options::default());
    let (a, b) = world.clock.run(both(load(), load()));
    let ((a, a_report), (b, b_report)) = (a.unwrap(), b.unwrap());
    assert!(a == tensors && b == tensors);
    assert_eq!(a_report.downloaded_bytes + b_report.downloaded_bytes, a_report.total_bytes);
    assert!(a_report.stored && b_report.stored);
    assert_eq!(world.clock.run(models::list(&world.store)).unwrap().len(), 1);
}

#[test]
fn corrupted_and_evicted_pieces_are_fetched_again() {
    for layout in [Layout::Single, Layout::Manifest, Layout::Hub] {
        let (world, _, tensors) = World::with(layout, 3, 30_000);
        world.load(layout).unwrap();
        let keys: Vec<String> = world
            .store
            .0
            .pieces
            .borrow()
            .iter()
            .filter(|(_, (b, _))| b.len() as u64 == PIECE)
            .map(|(k, _)| k.clone())
            .collect();
        assert!(keys.len() > 2);
        world.store.0.pieces.borrow_mut().get_mut(&keys[0]).unwrap().0[17] ^= 1;
        let (again, report) = world.load(layout).unwrap();
        assert_eq!((again == tensors, report.downloaded_bytes), (true, PIECE));
        assert_eq!(world.saw(|e| matches!(e, Event::Repaired { .. })), 1);

        world.store.0.pieces.borrow_mut().remove(&keys[1]);
        assert!(!world.clock.run(models::list(&world.store)).unwrap()[0].complete);
        let availability = models::availability(world.clock.clone(), world.source(layout), world.store.clone());
        assert_eq!(world.clock.run(availability).unwrap(), models::Availability::Partial);
        let (again, report) = world.load(layout).unwrap();
        assert_eq!((again == tensors, report.downloaded_bytes), (true, PIECE));
        assert_eq!(world.saw(|e| matches!(e, Event::Evicted { pieces: 1, bytes: PIECE, .. })), 1);
    }
}

/// Storage that lies about what it holds is caught even where nobody published a hash.
#[test]
fn a_piece_swapped_in_the_store_is_caught() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    world.load(Layout::Single).unwrap();
    {
        let mut pieces = world.store.0.pieces.borrow_mut();
        let piece = pieces.values_mut().find(|(b, _)| b.len() as u64 == PIECE).unwrap();
        piece.0[5] ^= 1;
        piece.1 = Digest::of(&piece.0);
    }
    assert_eq!(world.load(Layout::Single).unwrap().0, tensors);
    assert_eq!(world.saw(|e| matches!(e, Event::Repaired { .. })), 1);
}

/// A record of before there were digests of blocks: every piece is compared with its whole hash, and the record gains them.
#[test]
fn digests_of_blocks_are_added_to_a_record_and_then_used() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    world.load(Layout::Single).unwrap();
    let key = world.store.0.records.borrow().keys().next().unwrap().clone();
    let record = || Record::parse(&world.store.0.records.borrow()[&key]).unwrap();
    let put = |record: &Record| drop(world.store.0.records.borrow_mut().insert(key.clone(), record.to_text().unwrap()));
    let complete = record();
    assert_eq!((complete.digests.len() > 2, complete.blocks.len()), (true, complete.digests.len()));
    put(&Record { blocks: BTreeMap::new(), ..complete.clone() });
    assert_eq!(world.load(Layout::Single).unwrap().1.downloaded_bytes, 0);
    assert_eq!(record().blocks, complete.blocks);

    let mut wrong = complete.clone();
    *wrong.blocks.values_mut().next().unwrap() = Digest::of(b"something else");
    put(&wrong);
    let (got, report) = world.load(Layout::Single).unwrap();
    assert_eq!((got == tensors, report.downloaded_bytes), (true, PIECE));
    assert_eq!(world.saw(|e| matches!(e, Event::Repaired { .. })), 1);
}

#[test]
fn quota_is_checked_before_the_first_weight_byte() {
    let (world, _, tensors) = World::with(Layout::Manifest, 3, 30_000);
    world.store.0.free.set(Some(5000));
    let error = world.load(Layout::Manifest).unwrap_err();
    assert!(matches!(error, Error::Quota { needed, free: Some(5000) } if needed > 5000), "{error:?}");
    assert_eq!(world.server.sent.borrow().keys().filter(|u| u.ends_with(".safetensors")).count(), 0);

    // Room that runs out in the middle is a warning: the model still loads.
    world.store.0.free.set(None);
    let mut left = 4;
    *world.store.0.failing.borrow_mut() = Some(Box::new(move |verb| {
        left -= i32::from(verb == "put_piece");
        left < 0
    }));
    let (got, report) = world.load(Layout::Manifest).unwrap();
    assert_eq!((got == tensors, report.stored), (true, false));
    assert_eq!(world.saw(|e| matches!(e, Event::StorageFailed { .. })), 1);
    world.no_faults();
    let (_, report) = world.load(Layout::Manifest).unwrap();
    assert!(report.cached_bytes > 0, "what was stored before the failure is used");
}

#[test]
fn servers_without_ranges_stream_the_file_once() {
    for layout in [Layout::Single, Layout::Hub] {
        let (world, files, tensors) = World::with(layout, 3, 30_000);
        world.server.no_ranges.set(true);
        assert_eq!(world.load(layout).unwrap().0, tensors);
        let size = files["model.safetensors"].len();
        let sent: usize =
            world.server.sent.borrow().iter().filter(|(u, _)| u.ends_with(".safetensors")).map(|(_, n)| n).sum();
        // The hub's listing spares the request that would have shown it: four start at once.
        let slack = if layout == Layout::Single { 4096 } else { 4 * PIECE as usize + 4096 };
        assert!(sent <= size + slack, "{layout:?}: {sent} bytes of a file of {size}");
    }
}

/// Hosts say in many ways that they have no such file.
#[test]
fn any_refusal_of_an_absent_file_will_do() {
    for status in [204, 205, 400, 403, 404, 405, 406, 409, 410, 415, 422, 451] {
        let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
        world.server.absent.set(status);
        assert!(world.load(Layout::Single).unwrap().0 == tensors, "{status}");
        let read = world.clock.run(async {
            let checkpoint = world.open(Layout::Single, Options::default()).await?;
            checkpoint.file("chat_template.jinja").await
        });
        assert_eq!(read.unwrap(), None, "{status}");

        world.server.files.borrow_mut().remove(&format!("{URL}model.safetensors"));
        match World::load(&World { store: MemoryStore::default(), ..world }, Layout::Single) {
            Err(Error::FileNotFound { file, searched }) => {
                assert!(file.starts_with("model.safetensors"), "{file}");
                assert_eq!(searched, format!("{URL} (HTTP {status})"));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
    // What is no answer of that kind stays an error.
    for status in [402, 407, 421, 500] {
        let (world, _, _) = World::with(Layout::Single, 3, 30_000);
        world.server.absent.set(status);
        let loaded = world.load(Layout::Single);
        match status {
            421 => assert!(loaded.is_ok()),
            _ => assert!(matches!(loaded, Err(Error::Network { .. })), "{status}: {loaded:?}"),
        }
    }
}

/// A page in place of a file is an absent file where the model can do without it, and named where it cannot.
#[test]
fn a_web_page_is_no_file() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    let known = |url: &str| url.ends_with("config.json") || url.ends_with("model.safetensors");
    world.faults(move |r| (!known(&r.url)).then_some(Fault::Page));
    assert_eq!(world.load(Layout::Single).unwrap().0, tensors);

    let (world, _, _) = World::with(Layout::Single, 3, 30_000);
    world.faults(|r| r.url.ends_with(".safetensors").then_some(Fault::Page));
    let error = world.load(Layout::Single).unwrap_err();
    assert_eq!(error, Error::WebPage { url: format!("{URL}model.safetensors") });

    // A portal that comes in the way after the plan: its page is not taken for weights.
    for ranges in [true, false] {
        let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
        world.server.no_ranges.set(!ranges);
        let mut requests = 0;
        world.faults(move |r| {
            requests += i32::from(r.url.ends_with("model.safetensors"));
            (requests > 1 && requests < 5).then_some(Fault::Page)
        });
        assert!(world.load(Layout::Single).unwrap().0 == tensors, "ranges: {ranges}");
    }
}

/// The label says web page, the bytes are those of the file.
#[test]
fn a_wrong_label_does_no_harm() {
    for ranges in [true, false] {
        let (world, _, tensors) = World::with(Layout::Sharded, 3, 30_000);
        world.server.no_ranges.set(!ranges);
        *world.server.dress.borrow_mut() = Some(Box::new(|_, head| head.html = true));
        assert!(world.load(Layout::Sharded).unwrap().0 == tensors, "ranges: {ranges}");
    }
}

/// A proxy that gives no more than so many bytes at a time: progress, not failure, and nothing is waited for.
#[test]
fn short_ranges_go_on_where_they_ended() {
    for hidden in [false, true] {
        let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
        world.faults(|r| r.range.as_ref().map(|_| Fault::Short(300)));
        if hidden {
            *world.server.dress.borrow_mut() = Some(Box::new(|_, head| head.content_range = None));
        }
        assert!(world.load(Layout::Single).unwrap().0 == tensors, "hidden: {hidden}");
        let requests = world.server.requests.borrow().len() as f64;
        let waited = super::Host::now(&world.clock);
        assert!(requests > 100.0 && waited < requests * 12.0, "{requests} requests took {waited} ms");
    }
}

/// Content-Length is that of what was sent, not of what it becomes.
#[test]
fn compressed_answers_are_whole() {
    for (encoded, cut) in [(Some(true), false), (None, false), (Some(false), true)] {
        let (world, files, tensors) = World::with(Layout::Single, 3, 30_000);
        let config = files["config.json"].len() as u64;
        *world.server.dress.borrow_mut() = Some(Box::new(move |request, head| {
            head.encoded = encoded;
            if request.url.ends_with("config.json") {
                head.content_length = Some(config + 20);
            }
        }));
        match world.load(Layout::Single) {
            Ok((got, _)) => assert!(!cut && got == tensors, "{encoded:?}"),
            Err(error) => assert!(cut && error.to_string().contains("cut off"), "{encoded:?}: {error}"),
        }
    }
}

/// Whatever a host or CORS hides of the headers, in every combination, and with HEAD refused.
#[test]
fn hidden_headers_do_no_harm() {
    for hidden in 0..32_u32 {
        let hides = move |n: u32| hidden >> n & 1 == 1;
        for layout in [Layout::Single, Layout::Sharded] {
            let (world, _, tensors) = World::with(layout, 3, 30_000);
            world.server.no_ranges.set(hides(4));
            *world.server.dress.borrow_mut() = Some(Box::new(move |request, head| {
                head.version.take_if(|_| hides(0));
                head.content_range.take_if(|_| hides(1));
                head.content_length.take_if(|_| hides(2));
                head.encoded.take_if(|_| hides(3));
                if request.head {
                    head.status = 405;
                }
            }));
            assert!(world.load(layout).unwrap().0 == tensors, "{hidden:05b} {layout:?}");
        }
    }
}

/// Ranges that are not what was asked for, and a server that refuses one that ends behind the file.
#[test]
fn ranges_that_lie_are_noticed() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    let mut answers = 0;
    *world.server.dress.borrow_mut() = Some(Box::new(|request, head| {
        if let (Some(range), Some((first, last, total))) = (&request.range, head.content_range)
            && range.start == 0
            && total.is_some_and(|total| range.end > total)
        {
            (head.status, head.content_range) = (416, Some((first, last, total)));
        }
    }));
    world.faults(move |r| {
        answers += u32::from(r.range.is_some());
        (answers % 7 == 3).then_some(Fault::OtherRange)
    });
    assert_eq!(world.load(Layout::Single).unwrap().0, tensors);

    // The whole size is another each time.
    let (world, _, _) = World::with(Layout::Single, 3, 30_000);
    let told = Cell::new(0);
    *world.server.dress.borrow_mut() = Some(Box::new(move |_, head| {
        told.set(told.get() + 1);
        head.content_range =
            head.content_range.map(|(first, last, total)| (first, last, total.map(|t| t + told.get())));
    }));
    let error = world.load(Layout::Single).unwrap_err();
    assert!(matches!(error, Error::Integrity { .. } | Error::Checkpoint { .. }), "{error:?}");
}

/// A manifest lists all small files: those that it does not name are not asked for.
#[test]
fn what_the_manifest_does_not_list_is_not_asked_for() {
    let (world, _, _) = World::with(Layout::Manifest, 3, 30_000);
    let read = world.clock.run(async {
        let checkpoint = world.open(Layout::Manifest, Options::default()).await?;
        checkpoint.file("chat_template.jinja").await
    });
    assert_eq!(read.unwrap(), None);
    assert!(!world.server.requests.borrow().iter().any(|r| r.url.ends_with("chat_template.jinja")));
}

/// Storage of which not one write succeeds leaves no model of no bytes behind.
#[test]
fn nothing_is_listed_where_nothing_was_stored() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    *world.store.0.failing.borrow_mut() = Some(Box::new(|verb| verb == "put_piece"));
    let (got, report) = world.load(Layout::Single).unwrap();
    assert_eq!((got == tensors, report.stored), (true, false));
    assert_eq!(world.saw(|e| matches!(e, Event::StorageFailed { .. })), 1);
    world.no_faults();
    assert!(world.clock.run(models::list(&world.store)).unwrap().is_empty());
}

#[test]
fn retry_after_is_obeyed_and_stalls_time_out() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    let mut first = true;
    world.faults(move |_| std::mem::take(&mut first).then_some(Fault::RetryAfter(90_000.0)));
    assert_eq!(world.load(Layout::Single).unwrap().0, tensors);
    let waited = super::Host::now(&world.clock);
    assert!((90_000.0..110_000.0).contains(&waited), "{waited}");

    let (world, _, _) = World::with(Layout::Single, 3, 30_000);
    world.faults(|_| Some(Fault::StalledHead));
    assert!(matches!(world.load(Layout::Single), Err(Error::Network { problem, .. }) if problem.contains("no byte")));
}

#[test]
fn a_wrong_hash_is_an_error_that_names_the_piece() {
    let (world, files, _) = World::with(Layout::Manifest, 3, 30_000);
    let name = files.keys().find(|n| n.contains("00001")).unwrap();
    let mut bytes = files[name].clone();
    bytes[50] ^= 1;
    world.server.put(&format!("{URL}{name}"), &bytes, Some("\"1\""));
    match world.load(Layout::Manifest) {
        Err(Error::Integrity { file, piece, expected, got }) => {
            let first = &bytes[..bytes.len().min(PIECE as usize)];
            assert_eq!((&file, got), (name, Digest::of(first).to_string()));
            assert!(piece.starts_with("bytes 0-") && expected != Digest::of(first).to_string());
        }
        other => panic!("{other:?}"),
    }

    // Only the hash of the whole file is known: what was stored of it goes.
    let (world, files, tensors) = World::with(Layout::Hub, 3, 30_000);
    let url = "https://hub.test/org/name/resolve/c0ffee/model.safetensors";
    let mut bytes = files["model.safetensors"].clone();
    *bytes.last_mut().unwrap() ^= 1;
    world.server.put(url, &bytes, None);
    let error = world.load(Layout::Hub).unwrap_err();
    assert!(matches!(&error, Error::Integrity { piece, .. } if piece == "the whole file"), "{error:?}");
    assert_eq!(world.stored(), 0);
    world.server.put(url, &files["model.safetensors"], None);
    assert_eq!(world.load(Layout::Hub).unwrap().0, tensors);
}

#[test]
fn aborting_keeps_what_is_stored() {
    let (world, _, tensors) = World::with(Layout::Single, 3, 30_000);
    let options = Options::default();
    let abort: Abort = options.abort.clone();
    let mut requests = 0;
    world.faults(move |_| {
        requests += 1;
        if requests == 9 {
            abort.abort();
        }
        None
    });
    let aborted = world.clock.run(world.load_with(Layout::Single, options));
    assert_eq!(aborted.err(), Some(Error::Aborted));
    let stored = world.stored();
    assert!(stored > 0);
    world.no_faults();
    let (got, report) = world.load(Layout::Single).unwrap();
    assert_eq!((got == tensors, report.cached_bytes), (true, stored));
}

#[test]
fn models_in_use_are_not_deleted_and_old_revisions_are_collected() {
    let (world, _, _) = World::with(Layout::Single, 3, 30_000);
    world.load(Layout::Single).unwrap();
    let held = world.clock.run(world.open(Layout::Single, Options::default())).unwrap();
    let refused = world.clock.run(models::delete(&world.store, URL));
    assert_eq!(refused, Err(Error::InUse { model: URL.into() }));
    drop(held);

    let (files, tensors) = model(&mut fastrand::Rng::with_seed(4), Layout::Single);
    publish(&world.server, Layout::Single, &files, 2);
    let options = || Options { refresh: true, ..Options::default() };
    // A refresh that fails leaves the old copy complete.
    let count = Cell::new(0);
    world.faults(move |_| (count.replace(count.get() + 1) > 4).then_some(Fault::NoConnection));
    assert!(world.clock.run(world.load_with(Layout::Single, options())).is_err());
    assert!(world.clock.run(models::list(&world.store)).unwrap()[0].complete);
    world.no_faults();
    let (got, report) = world.clock.run(world.load_with(Layout::Single, options())).unwrap();
    assert!(got == tensors);
    assert_eq!(world.stored(), report.total_bytes, "the old revision's pieces are gone");
    let listed = world.clock.run(models::list(&world.store)).unwrap();
    assert_eq!((listed.len(), listed[0].complete, listed[0].source.as_str()), (1, true, URL));

    world.clock.run(models::delete(&world.store, URL)).unwrap();
    assert!(world.store.0.pieces.borrow().is_empty() && world.store.0.records.borrow().is_empty());
}

#[test]
fn the_token_goes_to_its_origin_only_and_mirrors_step_in() {
    let (world, files, tensors) = World::with(Layout::Manifest, 3, 30_000);
    for (name, bytes) in &files {
        world.server.put(&format!("https://mirror.test/m/{name}"), bytes, None);
    }
    world.faults(|r| (r.url.contains("host.test") && r.url.contains(".safetensors")).then_some(Fault::NoConnection));
    let net = Net(world.server.clone(), world.clock.clone());
    let mirrors = ["https://mirror.test/m".to_string()];
    let source = HttpSource::folder(net, world.clock.clone(), URL, Some("secret".into()), &mirrors).unwrap();
    let got = world.clock.run(async {
        let store = world.store.clone();
        let checkpoint = Checkpoint::open(world.clock.clone(), source, store, Options::default(), |_| {}).await?;
        let mut sink = Sink::default();
        checkpoint.load(&mut sink).await?;
        Ok::<_, Error>(sink.tensors())
    });
    assert!(
        got.is_ok_and(|got| got == tensors),
        "{:?}",
        world.server.requests.borrow().iter().map(|r| (&r.url[..20], &r.range)).collect::<Vec<_>>()
    );
    let requests = world.server.requests.borrow();
    for request in requests.iter() {
        let expected = request.url.starts_with("https://host.test/").then(|| "secret".to_string());
        assert_eq!(request.token, expected, "{}", request.url);
    }
    assert!(requests.iter().any(|r| r.url.contains("mirror.test")));
}

#[test]
fn gated_models_say_so() {
    let (world, _, _) = World::with(Layout::Hub, 3, 30_000);
    world.faults(|_| Some(Fault::Status(401)));
    assert!(matches!(world.load(Layout::Hub), Err(Error::Gated { status: 401, .. })));
    let (world, _, _) = World::with(Layout::Single, 3, 30_000);
    world.faults(|_| Some(Fault::Status(404)));
    assert!(matches!(world.load(Layout::Single), Err(Error::FileNotFound { .. })));
}

/// Tensors that the model does not need are not downloaded.
#[test]
fn unwanted_tensors_cost_nothing() {
    let world = World::new();
    let tensors: Vec<_> = (0..3).map(|n| (format!("t{n}"), vec![n as u8; 4 * PIECE as usize])).collect();
    let files = BTreeMap::from([("model.safetensors".to_string(), safetensors(&tensors))]);
    publish(&world.server, Layout::Single, &files, 1);
    let report = world.clock.run(async {
        let checkpoint = world.open(Layout::Single, Options::default()).await.unwrap();
        let mut sink = Sink { unwanted: Some("t1".into()), ..Sink::default() };
        let report = checkpoint.load(&mut sink).await.unwrap();
        assert!(sink.bytes[0] == tensors[0].1 && sink.bytes[1].is_empty() && sink.bytes[2] == tensors[2].1);
        report
    });
    assert!(report.total_bytes <= 10 * PIECE, "{report:?}");
}

/// In order, each phase as it comes, no more than twenty in any second; the same from the store alone.
#[test]
fn progress_is_ordered_and_seldom() {
    use Phase::{Check, Compile, Download, SelfCheck, Store, Upload, Verify};
    // Slow enough to last some seconds.
    let (world, _, _) = World::with(Layout::Single, 3, 40_000);
    world.server.chunk_ms.set(150.0);
    let told = Rc::new(RefCell::new(Vec::<(f64, Progress)>::new()));
    let load = || {
        told.borrow_mut().clear();
        let (log, clock) = (told.clone(), world.clock.clone());
        let on_event = move |e| match e {
            Event::Progress(p) => log.borrow_mut().push((super::Host::now(&clock), p)),
            other => panic!("{other:?}"),
        };
        world.clock.run(async {
            let (host, source, store) = (world.clock.clone(), world.source(Layout::Single), world.store.clone());
            let checkpoint = Checkpoint::open(host, source, store, Options::default(), on_event).await.unwrap();
            checkpoint.load(&mut Sink::default()).await.unwrap();
            checkpoint.enter(Compile);
            checkpoint.enter(SelfCheck);
        });
        let told = told.borrow();
        let mut phases: Vec<_> = told.iter().map(|(_, p)| p.phase).collect();
        phases.dedup();
        assert!(told.windows(2).all(|two| two[0].1.loaded_bytes <= two[1].1.loaded_bytes));
        let last = &told.last().unwrap().1;
        assert_eq!(last.loaded_bytes, last.total_bytes);
        let busiest = told.iter().map(|(at, _)| told.iter().filter(|(t, _)| (*at..at + 1000.0).contains(t)).count());
        (phases, told.len(), busiest.max().unwrap())
    };
    let (phases, events, busiest) = load();
    assert_eq!(phases, [Check, Download, Verify, Store, Upload, Compile, SelfCheck]);
    assert!(events > 15 && (10..=20).contains(&busiest), "{events} events, {busiest} in a second");
    assert_eq!(load().0, [Check, Verify, Upload, Compile, SelfCheck]);
}

/// A repository of more files than the hub's API lists at a time; a list that leads elsewhere is not followed.
#[test]
fn long_lists_of_the_hub_come_in_parts() {
    let (world, files, tensors) = World::with(Layout::Hub, 3, 30_000);
    let tree = "https://hub.test/api/models/org/name/tree/c0ffee";
    let all: Vec<serde_json::Value> = serde_json::from_slice(&world.server.files.borrow()[tree].bytes).unwrap();
    let part = |entries: &[serde_json::Value], next: Option<&str>| {
        let mut file = File { bytes: serde_json::to_vec(entries).unwrap(), etag: None, link: None };
        file.link = next.map(|next| format!("<{next}>; rel=\"next\""));
        file
    };
    assert_eq!(files.len(), 2);
    let link = |next: &str| {
        world.server.files.borrow_mut().insert(tree.into(), part(&all[..1], Some(next)));
        world.load(Layout::Hub)
    };
    world.server.files.borrow_mut().insert(format!("{tree}/2"), part(&all[1..], None));
    assert_eq!(link(&format!("{tree}/2?cursor=b")).unwrap().0, tensors);
    let fresh = |next: &str| {
        world.clock.run(models::delete(&world.store, "org/name")).unwrap();
        link(next)
    };
    assert_eq!(fresh("/api/models/org/name/tree/c0ffee/2").unwrap().0, tensors);
    let error = fresh("https://elsewhere.test/api").unwrap_err();
    assert!(matches!(&error, Error::Network { problem, .. } if problem.contains("elsewhere.test")), "{error:?}");
    // For ever in a circle.
    let error = fresh(tree).unwrap_err();
    assert!(matches!(&error, Error::Network { problem, .. } if problem.contains("goes on")), "{error:?}");
    assert!(world.server.requests.borrow().iter().all(|r| !r.url.contains("elsewhere")));
}

#[test]
fn dtype_sizes_are_counted() {
    assert!(TensorInfo::checked("x".into(), Dtype::F16, &[1 << 40, 1 << 40]).is_none());
    assert!(TensorInfo::checked("x".into(), Dtype::F16, &[0, u64::MAX, 2]).is_none());
    assert_eq!(TensorInfo::checked("x".into(), Dtype::F32, &[3, 5]).unwrap().bytes(), 60);
}
