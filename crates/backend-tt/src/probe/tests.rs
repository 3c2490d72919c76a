//! The probe on made-up machines.

use tempfile::TempDir;

use super::*;

/// A tree with these files.
fn machine(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("sys/bus/pci/devices")).unwrap();
    for (file, text) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

const HOST_BRIDGE: [(&str, &str); 2] = [
    ("sys/bus/pci/devices/0000:00:00.0/vendor", "0x8086\n"),
    ("sys/bus/pci/devices/0000:00:00.0/device", "0x1237\n"),
];
const BLACKHOLE: [(&str, &str); 2] = [
    ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x1e52\n"),
    ("sys/bus/pci/devices/0000:01:00.0/device", "0xb140\n"),
];
const DRIVER: (&str, &str) = ("sys/module/tenstorrent/version", "2.10.0\n");
const NODE: (&str, &str) = ("dev/tenstorrent/0", "");
const TAKEN: (&str, &str) = ("sys/bus/pci/devices/0000:01:00.0/tenstorrent/tenstorrent!0/uevent", "");

fn class(attributes: &[(&'static str, &'static str)]) -> Vec<(String, &'static str)> {
    let path = |name: &str| format!("sys/class/tenstorrent/tenstorrent!0/{name}");
    attributes.iter().map(|(name, text)| (path(name), *text)).collect()
}

fn with_firmware(firmware: &'static str) -> TempDir {
    let attributes = class(&[
        ("tt_card_type", "p150a\n"),
        ("tt_serial", "0000040123456789\n"),
        ("tt_fw_bundle_ver", firmware),
        ("tt_aiclk", "800\n"),
    ]);
    let mut files = vec![DRIVER, NODE, TAKEN];
    files.extend(HOST_BRIDGE);
    files.extend(BLACKHOLE);
    files.extend(attributes.iter().map(|(path, text)| (path.as_str(), *text)));
    machine(&files)
}

#[test]
fn a_card_in_order() {
    let root = with_firmware("19.6.0.0\n");
    let probe = probe_in(root.path());
    assert_eq!(probe.problems(), [""; 0]);
    assert_eq!(probe.usable().count(), 1);
    let card = &probe.cards[0];
    assert_eq!((card.chip, card.serial.as_deref()), (Some(Chip::Blackhole), Some("0000040123456789")));
    assert_eq!(card.cores(), Some(Cores { all: 120, under_fast_dispatch: 110 }));
    assert_eq!(
        probe.to_string(),
        "driver tt-kmd: 2.10.0\n\
         Blackhole p150a at 0000:01:00.0, /dev/tenstorrent/0, firmware 19.6.0, \
         120 cores by its firmware (110 under fast dispatch), 800 MHz now"
    );
}

#[test]
fn cores_follow_from_firmware_and_board() {
    let cores = |firmware| {
        let root = with_firmware(firmware);
        probe_in(root.path()).cards[0].cores().map(|cores| (cores.all, cores.under_fast_dispatch))
    };
    assert_eq!(cores("19.5.0.0"), Some((120, 110)));
    assert_eq!(cores("20.0.0"), Some((120, 110)));
    assert_eq!(cores("19.4.2.0"), Some((140, 130)));
    assert_eq!(cores("80.18.0.0"), Some((140, 130)));
    assert_eq!(cores("unheard of"), None);
    let card = Card {
        board: Some("n300".to_owned()),
        ..probe_in(with_firmware("19.6.0.0").path()).cards[0].clone()
    };
    assert_eq!(card.cores(), None);
}

#[test]
fn no_card() {
    let root = machine(&HOST_BRIDGE);
    let probe = probe_in(root.path());
    assert_eq!(
        probe.to_string(),
        "driver tt-kmd: not loaded\nno Tenstorrent card on the PCI bus (vendor 1e52), and no node in /dev/tenstorrent"
    );
    let nothing = tempfile::tempdir().unwrap();
    let problems = probe_in(nothing.path()).problems();
    assert!(problems[0].starts_with("the PCI bus cannot be looked at"), "{problems:?}");
    assert_eq!(probe_in(&nothing.path().join("absent")).cards, []);
}

#[test]
fn no_driver() {
    let root = machine(&BLACKHOLE);
    let probe = probe_in(root.path());
    assert_eq!(probe.usable().count(), 0);
    let problems = probe.problems();
    assert!(
        problems[0].starts_with("the card at 0000:01:00.0 has no driver: install tt-kmd"),
        "{problems:?}"
    );
    assert_eq!(probe.cards[0].to_string(), "Blackhole at 0000:01:00.0");
}

#[test]
fn a_driver_that_did_not_take_it_and_a_node_that_is_not_there() {
    let root =
        machine(&[BLACKHOLE[0], BLACKHOLE[1], ("proc/modules", "ext4 1 0\ntenstorrent 98304 0 - Live\n")]);
    let probe = probe_in(root.path());
    assert_eq!(probe.driver, Driver::Loaded(None));
    assert_eq!(probe.problems(), ["the card at 0000:01:00.0 was not taken by the driver: look at `dmesg`"]);

    let root = machine(&[BLACKHOLE[0], BLACKHOLE[1], DRIVER, TAKEN]);
    let problems = probe_in(root.path()).problems();
    assert!(problems[0].contains("has no /dev/tenstorrent/0 here: a container must"), "{problems:?}");
}

#[cfg(unix)]
#[test]
fn a_node_without_permission() {
    let refuse = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
    let root = with_firmware("19.6.0.0");
    let node = root.path().join("dev/tenstorrent/0");
    let (group, _) = group_and_mode(&node).unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/group"), format!("odd\nroot:x:99999:\ncards:x:{group}:\n")).unwrap();
    let mode = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&node, permissions).unwrap();
        probe_with(root.path(), &refuse).problems().remove(0)
    };
    assert_eq!(
        mode(0o660),
        "the card at 0000:01:00.0 is not yours to open: join the group `cards` (`sudo usermod -aG cards $USER`) and log in again"
    );
    assert!(mode(0o600).contains("lacks the rule that tt-kmd installs"));
    assert_eq!(probe_with(root.path(), &refuse).usable().count(), 0);
    let busy = |_: &Path| Err(io::Error::other("on fire"));
    assert_eq!(
        probe_with(root.path(), &busy).problems(),
        ["the card at 0000:01:00.0 does not open: on fire"]
    );
}

#[test]
fn firmware_that_is_old_or_unknown() {
    let problem = |firmware| {
        let root = with_firmware(firmware);
        let probe = probe_in(root.path());
        (probe.usable().count(), probe.problems().pop().unwrap_or_default())
    };
    let (usable, text) = problem("18.4.0.0");
    assert!(usable == 0 && text.contains("has firmware 18.4.0, too old: 18.5.0 is the oldest"), "{text}");
    assert_eq!(problem("80.18.0.0").0, 0);
    assert_eq!(problem("18.5.0.0"), (1, String::new()));
    for odd in ["", "19", "19.x.0", "19.5.0.", "99999999999.0.0"] {
        let (usable, text) = problem(odd);
        assert!(usable == 1 && text.contains("does not say which firmware it runs"), "{odd}: {text}");
    }
}

#[test]
fn other_chips_and_cards_behind_their_nodes() {
    let root = machine(&[
        ("sys/bus/pci/devices/0000:02:00.0/vendor", "0x1e52"),
        ("sys/bus/pci/devices/0000:02:00.0/device", "0x401e"),
        ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x1e52"),
        ("sys/bus/pci/devices/0000:03:00.0/device", "0xfeed"),
        ("dev/tenstorrent/10", ""),
        ("dev/tenstorrent/9", ""),
        ("dev/tenstorrent/by-id", ""),
        ("sys/class/tenstorrent/tenstorrent!10/tt_card_type", "p150b"),
        ("sys/class/tenstorrent/tenstorrent!10/tt_fw_bundle_ver", "19.5.0.0"),
    ]);
    let probe = probe_in(root.path());
    let cards: Vec<_> = probe.cards.iter().map(ToString::to_string).collect();
    assert_eq!(
        cards,
        [
            "Wormhole at 0000:02:00.0",
            "Tenstorrent device feed at 0000:03:00.0",
            "unknown chip, /dev/tenstorrent/9",
            "Blackhole p150b, /dev/tenstorrent/10, firmware 19.5.0, 120 cores by its firmware (110 under fast dispatch)",
        ]
    );
    assert_eq!(probe.usable().count(), 1);
    assert!(probe.problems()[2].starts_with("/dev/tenstorrent/9 is of a kind"), "{:?}", probe.problems());
    assert!(probe.problems()[0].contains("is a Wormhole; the programs here are for Blackhole"));
}

#[test]
fn odd_files_are_no_cards() {
    let root = machine(&[
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x1e52 or so"),
        ("sys/bus/pci/devices/0000:02:00.0/vendor", ""),
        ("sys/bus/pci/devices/0000:03:00.0/vendor/nested", "0x1e52"),
        ("sys/bus/pci/devices/0000:04:00.0/vendor", "0x1e52"),
        ("sys/bus/pci/devices/0000:04:00.0/tenstorrent", "a file"),
        ("sys/bus/pci/devices/0000:05:00.0", "a file"),
        ("dev/tenstorrent", "a file"),
        ("sys/module/tenstorrent", "a file"),
    ]);
    let probe = probe_in(root.path());
    assert_eq!((probe.cards.len(), &probe.driver), (1, &Driver::Absent));
    assert_eq!(probe.cards[0].to_string(), "unknown chip at 0000:04:00.0");
    assert!(!probe.to_string().is_empty());

    let root = with_firmware("19.6.0.0");
    let class = root.path().join("sys/class/tenstorrent/tenstorrent!0");
    fs::write(class.join("tt_card_type"), b"p150a\x1b[31m\xff\nmore\n").unwrap();
    fs::write(class.join("tt_aiclk"), vec![b'9'; 1 << 16]).unwrap();
    fs::remove_file(class.join("tt_serial")).unwrap();
    fs::create_dir(class.join("tt_serial")).unwrap();
    fs::remove_file(root.path().join("dev/tenstorrent/0")).unwrap();
    fs::create_dir(root.path().join("dev/tenstorrent/0")).unwrap();
    let card = probe_in(root.path()).cards.remove(0);
    assert_eq!(card.board.as_deref(), Some("p150a[31m\u{fffd}"));
    assert_eq!((card.clock_mhz, card.serial), (None, None));
    assert!(matches!(card.access, Access::Failed(_)), "{:?}", card.access);
}

#[test]
fn this_machine_is_looked_at_without_panic() {
    let probe = probe();
    assert!(!probe.to_string().is_empty());
    assert_eq!(
        probe.cards.is_empty(),
        probe.problems().iter().any(|problem| problem.contains(" no node in "))
    );
}
