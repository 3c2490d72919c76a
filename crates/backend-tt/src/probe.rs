//! Which Tenstorrent cards this machine has, and what is missing to use one.
//!
//! Everything is read from `/sys`, `/proc` and `/dev` as the driver `tt-kmd` lays them out
//! (<https://github.com/tenstorrent/tt-kmd/blob/main/docs/sysfs-attributes.md>); nothing is sent to a card, but for
//! opening and closing its node. The vendor's crate `luwen-kmd` (0.10.0, Apache-2.0) is not used: it maps a card's
//! registers to ask less than sysfs tells, panics on a Grayskull, takes no other root for tests, and would bring
//! older versions of three crates that are here already.
//!
//! ```
//! let probe = smolvla_backend_tt::probe::probe();
//! println!("{probe}");
//! assert!(probe.usable().count() <= probe.cards.len());
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Tenstorrent's PCI vendor number (`enumerate.h` of tt-kmd).
const VENDOR: u16 = 0x1e52;
/// Most bytes of a file that are looked at: what sysfs gives at most.
const LONGEST: u64 = 4096;
/// Most bytes of `/etc/group` and `/proc/modules`.
const LONGEST_LIST: u64 = 1 << 20;
/// Where the nodes are.
const NODES: &str = "/dev/tenstorrent";

/// What was found; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// Cards by PCI address, then those of which there is only a node.
    pub cards: Vec<Card>,
    /// The kernel driver `tt-kmd`.
    pub driver: Driver,
    /// Whether the list of PCI devices could be read at all.
    pub pci_bus: bool,
}

/// The kernel driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Not loaded.
    Absent,
    /// Loaded, with its version where it says one.
    Loaded(Option<String>),
}

/// A chip, as the PCI bus has it: a board with two is listed twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// The kind of chip, by the PCI bus, else by the board; `None` where neither is known.
    pub chip: Option<Chip>,
    /// The PCI address, such as `0000:01:00.0`.
    pub pci_address: Option<String>,
    /// The node under `/dev/tenstorrent`, once the driver has the card.
    pub node: Option<PathBuf>,
    /// Whether the node can be used.
    pub access: Access,
    /// The board: `p150a` and the like (`tt_card_type`).
    pub board: Option<String>,
    /// The board's serial number, hexadecimal (`tt_serial`).
    pub serial: Option<String>,
    /// The bundle of firmware it runs (`tt_fw_bundle_ver`).
    pub firmware: Option<Firmware>,
    /// Clock of the Tensix cores at this moment, in MHz (`tt_aiclk`); lower when idle.
    pub clock_mhz: Option<u32>,
}

/// Kinds of chips, by PCI device number (`enumerate.h` of tt-kmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// 0xfaca.
    Grayskull,
    /// 0x401e.
    Wormhole,
    /// 0xb140.
    Blackhole,
    /// Another one of the vendor's.
    Other(u16),
}

impl Chip {
    fn of(device: u16) -> Self {
        match device {
            0xfaca => Self::Grayskull,
            0x401e => Self::Wormhole,
            0xb140 => Self::Blackhole,
            other => Self::Other(other),
        }
    }

    /// The chip of a board, by the names that the driver has for those it knows (`telemetry.c` of tt-kmd).
    fn of_board(board: &str) -> Option<Self> {
        match board {
            "galaxy-blackhole" => Some(Self::Blackhole),
            "galaxy-wormhole" => Some(Self::Wormhole),
            _ if board.starts_with('p') => Some(Self::Blackhole),
            _ if board.starts_with('n') => Some(Self::Wormhole),
            _ => None,
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grayskull => f.pad("Grayskull"),
            Self::Wormhole => f.pad("Wormhole"),
            Self::Blackhole => f.pad("Blackhole"),
            Self::Other(device) => write!(f, "Tenstorrent device {device:04x}"),
        }
    }
}

/// Whether a card's node can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It opens for reading and writing.
    Granted,
    /// It is there, for others.
    Denied {
        /// The group that it belongs to, by name, else by number; `None` where that cannot be told.
        group: Option<String>,
        /// Whether that group may read and write it.
        group_may: bool,
    },
    /// There is none.
    NoNode,
    /// It does not open for another reason, which this is.
    Failed(String),
}

/// The version of a bundle of firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Firmware {
    /// The oldest that the vendor's library takes on a Blackhole: 18.5.0 (tt-umd pull request 1720,
    /// <https://github.com/tenstorrent/tt-umd/pull/1720>).
    pub const OLDEST: Self = Self { major: 18, minor: 5, patch: 0 };
    /// The first that leaves 120 cores of a p150: 19.5.0 (release notes, "p150 Tensix Core Count",
    /// <https://github.com/tenstorrent/tt-system-firmware/releases/tag/v19.5.0>).
    pub const OF_120_CORES: Self = Self { major: 19, minor: 5, patch: 0 };

    /// Reads `19.5.0` and `19.5.0.0`.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let firmware = Self { major: next()?, minor: next()?, patch: next()? };
        numbers.all(|number| number.is_some()).then_some(firmware)
    }

    /// Whether it is as new as `other`. Versions from 80 on were given out before those from 18 on: `80.18.0.0` came in
    /// spring 2025, before 18.3.
    pub fn is_at_least(self, other: Self) -> bool {
        let order = |firmware: Self| (firmware.major < 80, firmware.major, firmware.minor, firmware.patch);
        order(self) >= order(other)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Tensix cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// That there are.
    pub all: u32,
    /// That programs run on under the vendor's fast dispatch, which takes the rest of a column for itself.
    pub under_fast_dispatch: u32,
}

impl Card {
    /// Cores of a p150 by a rule, since neither driver nor sysfs counts them: 140 before firmware 19.5.0 and 120
    /// since, of which fast dispatch leaves 130 and 110 (tt-metal issue 47014 and pull request 47015,
    /// <https://github.com/tenstorrent/tt-metal/pull/47015>). The vendor's `tt-update-tensix-disable-count` gives
    /// cards from before 2026 their 140 back under newer firmware, which the rule cannot know.
    ///
    /// `None` for other boards and where the firmware is not known.
    pub fn cores(&self) -> Option<Cores> {
        let firmware = self.firmware?;
        if !self.board.as_deref()?.starts_with("p150") {
            return None;
        }
        Some(if firmware.is_at_least(Firmware::OF_120_CORES) {
            Cores { all: 120, under_fast_dispatch: 110 }
        } else {
            Cores { all: 140, under_fast_dispatch: 130 }
        })
    }

    /// Whether it is a Blackhole that can be opened, with firmware that is not known to be too old.
    pub fn is_usable(&self) -> bool {
        let new_enough = self.firmware.is_none_or(|firmware| firmware.is_at_least(Firmware::OLDEST));
        self.chip == Some(Chip::Blackhole) && self.access == Access::Granted && new_enough
    }

    fn problem(&self, driver: &Driver) -> Option<String> {
        if let Some(chip) = self.chip.filter(|chip| *chip != Chip::Blackhole) {
            return Some(format!("is a {chip}; the programs here are for Blackhole"));
        }
        if self.chip.is_none() {
            return Some("is of a kind that neither the PCI bus nor the driver tells".to_owned());
        }
        let node = self.node.as_deref().unwrap_or(Path::new(NODES)).display();
        match &self.access {
            Access::Granted => (),
            Access::NoNode if *driver == Driver::Absent => {
                return Some(
                    "has no driver: install tt-kmd (https://github.com/tenstorrent/tt-kmd), then `modprobe tenstorrent`"
                        .to_owned(),
                );
            }
            Access::NoNode => {
                return Some(match &self.node {
                    Some(_) => format!(
                        "has no {node} here: a container must be given it (`--device {node}`), else look at `dmesg`"
                    ),
                    None => "was not taken by the driver: look at `dmesg`".to_owned(),
                });
            }
            Access::Denied { group: Some(group), group_may: true } if group != "root" => {
                return Some(format!(
                    "is not yours to open: join the group `{group}` (`sudo usermod -aG {group} $USER`) and log in again"
                ));
            }
            Access::Denied { .. } => {
                return Some(format!(
                    "is not yours to open: {node} lacks the rule that tt-kmd installs (udev-50-tenstorrent.rules, mode 0666)"
                ));
            }
            Access::Failed(reason) => return Some(format!("does not open: {reason}")),
        }
        match self.firmware {
            Some(firmware) if !firmware.is_at_least(Firmware::OLDEST) => Some(format!(
                "has firmware {firmware}, too old: {} is the oldest that the vendor's library takes; update it with tt-flash",
                Firmware::OLDEST
            )),
            Some(_) => None,
            None => Some(
                "does not say which firmware it runs, and so not how many cores it has: driver or firmware are too old"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chip {
            Some(chip) => write!(f, "{chip}")?,
            None => f.write_str("unknown chip")?,
        }
        if let Some(board) = &self.board {
            write!(f, " {board}")?;
        }
        if let Some(address) = &self.pci_address {
            write!(f, " at {address}")?;
        }
        if let Some(node) = &self.node {
            write!(f, ", {}", node.display())?;
        }
        if let Some(firmware) = self.firmware {
            write!(f, ", firmware {firmware}")?;
        }
        if let Some(Cores { all, under_fast_dispatch }) = self.cores() {
            write!(f, ", {all} cores by its firmware ({under_fast_dispatch} under fast dispatch)")?;
        }
        if let Some(clock) = self.clock_mhz {
            write!(f, ", {clock} MHz now")?;
        }
        Ok(())
    }
}

impl Probe {
    /// The cards that programs can run on.
    pub fn usable(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().filter(|card| card.is_usable())
    }

    /// What is missing, a sentence each; empty when every card is in order.
    pub fn problems(&self) -> Vec<String> {
        if self.cards.is_empty() {
            return vec![if self.pci_bus {
                format!("no Tenstorrent card on the PCI bus (vendor {VENDOR:04x}), and no node in {NODES}")
            } else {
                format!(
                    "the PCI bus cannot be looked at (/sys/bus/pci/devices), and there is no node in {NODES}: whether this \
                     machine has a card is not known"
                )
            }];
        }
        let sentence = |card: &Card| {
            let name = match (&card.pci_address, &card.node) {
                (Some(address), _) => format!("the card at {address}"),
                (None, Some(node)) => node.display().to_string(),
                (None, None) => "a card".to_owned(),
            };
            card.problem(&self.driver).map(|problem| format!("{name} {problem}"))
        };
        self.cards.iter().filter_map(sentence).collect()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Driver::Absent => f.write_str("driver tt-kmd: not loaded")?,
            Driver::Loaded(None) => f.write_str("driver tt-kmd: loaded, version not known")?,
            Driver::Loaded(Some(version)) => write!(f, "driver tt-kmd: {version}")?,
        }
        self.cards.iter().try_for_each(|card| write!(f, "\n{card}"))?;
        self.problems().iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// Looks at this machine.
pub fn probe() -> Probe {
    probe_in(Path::new("/"))
}

/// Looks at a tree of folders in place of `/`.
pub fn probe_in(root: &Path) -> Probe {
    probe_with(root, &|node| OpenOptions::new().read(true).write(true).open(node).map(drop))
}

/// `open` tries a node.
fn probe_with(root: &Path, open: &dyn Fn(&Path) -> io::Result<()>) -> Probe {
    let machine = Machine { root, open };
    let buses = machine.names("sys/bus/pci/devices");
    let mut cards = Vec::new();
    let mut seen = BTreeSet::new();
    for address in buses.iter().flatten() {
        if let Some(card) = machine.on_the_bus(address) {
            seen.extend(card.node.clone());
            cards.push(card);
        }
    }
    for number in machine.names("dev/tenstorrent").into_iter().flatten().filter_map(ordinal) {
        if !seen.contains(&node(number)) {
            cards.push(machine.by_node(number));
        }
    }
    Probe { cards, driver: machine.driver(), pci_bus: buses.is_some() }
}

/// The number of a node or of its folder in sysfs: `3` of `3` and `tenstorrent!3`.
fn ordinal(name: impl AsRef<str>) -> Option<u32> {
    let name = name.as_ref();
    let digits = name.strip_prefix("tenstorrent!").unwrap_or(name);
    digits.parse().ok().filter(|number: &u32| number.to_string() == digits)
}

fn node(number: u32) -> PathBuf {
    Path::new(NODES).join(number.to_string())
}

/// A tree of folders to look at.
struct Machine<'a> {
    root: &'a Path,
    open: &'a dyn Fn(&Path) -> io::Result<()>,
}

impl Machine<'_> {
    /// Names in a folder, in order; `None` where it cannot be read.
    fn names(&self, folder: &str) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.root.join(folder)).ok()?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        // By number where they are numbers, so that 10 comes after 9.
        names.sort_by_key(|name| (ordinal(name), name.clone()));
        Some(names)
    }

    /// A file's text without white space around it; `None` where it is not there, refuses, or says nothing.
    fn text(&self, file: &str, longest: u64) -> Option<String> {
        let path = self.root.join(file);
        // Whatever else could be there may wait for a writer.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(longest).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A one-line attribute. Characters that would upset a terminal are left out.
    fn attribute(&self, folder: &str, name: &str) -> Option<String> {
        let text = self.text(&format!("{folder}/{name}"), LONGEST)?;
        let line: String = text.lines().next()?.chars().filter(|c| !c.is_control()).collect();
        (!line.is_empty()).then_some(line)
    }

    /// A hexadecimal number such as `0x1e52`.
    fn number(&self, folder: &str, name: &str) -> Option<u16> {
        let text = self.attribute(folder, name)?;
        u16::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
    }

    fn on_the_bus(&self, address: &str) -> Option<Card> {
        let folder = format!("sys/bus/pci/devices/{address}");
        if self.number(&folder, "vendor")? != VENDOR {
            return None;
        }
        let names = self.names(&format!("{folder}/tenstorrent")).unwrap_or_default();
        let number = names.into_iter().find_map(ordinal);
        let card = match number {
            Some(number) => {
                self.card(number, &[self.class(number), format!("{folder}/tenstorrent/tenstorrent!{number}")])
            }
            None => Card {
                chip: None,
                pci_address: None,
                node: None,
                access: Access::NoNode,
                board: None,
                serial: None,
                firmware: None,
                clock_mhz: None,
            },
        };
        let chip = self.number(&folder, "device").map(Chip::of).or(card.chip);
        Some(Card { chip, pci_address: Some(address.to_owned()), ..card })
    }

    /// A card whose PCI device is not to be seen, as in some containers.
    fn by_node(&self, number: u32) -> Card {
        self.card(number, &[self.class(number)])
    }

    fn class(&self, number: u32) -> String {
        format!("sys/class/tenstorrent/tenstorrent!{number}")
    }

    fn card(&self, number: u32, folders: &[String]) -> Card {
        let attribute = |name: &str| folders.iter().find_map(|folder| self.attribute(folder, name));
        // "unknown" is what the driver says of boards it does not know.
        let board = attribute("tt_card_type").filter(|board| board != "unknown");
        Card {
            chip: board.as_deref().and_then(Chip::of_board),
            pci_address: None,
            access: self.access(&node(number)),
            node: Some(node(number)),
            board,
            serial: attribute("tt_serial"),
            firmware: attribute("tt_fw_bundle_ver").and_then(|text| Firmware::parse(&text)),
            clock_mhz: attribute("tt_aiclk").and_then(|text| text.parse().ok()),
        }
    }

    fn access(&self, node: &Path) -> Access {
        let path = self.root.join(node.strip_prefix("/").unwrap_or(node));
        match (self.open)(&path) {
            Ok(()) => Access::Granted,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Access::NoNode,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let owner = group_and_mode(&path);
                Access::Denied {
                    group: owner.map(|(group, _)| self.group(group)),
                    group_may: owner.is_some_and(|(_, mode)| mode & 0o060 == 0o060),
                }
            }
            Err(error) => Access::Failed(error.to_string()),
        }
    }

    /// A group's name, else its number.
    fn group(&self, number: u32) -> String {
        let groups = self.text("etc/group", LONGEST_LIST).unwrap_or_default();
        let named = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
        });
        named.unwrap_or_else(|| number.to_string())
    }

    fn driver(&self) -> Driver {
        if let Some(version) = self.attribute("sys/module/tenstorrent", "version") {
            return Driver::Loaded(Some(version));
        }
        let modules = self.text("proc/modules", LONGEST_LIST).unwrap_or_default();
        let listed = modules.lines().any(|line| line.split(' ').next() == Some("tenstorrent"));
        if listed || self.root.join("sys/module/tenstorrent").is_dir() {
            return Driver::Loaded(None);
        }
        Driver::Absent
    }
}

/// The number of the group that a file belongs to, and its mode.
#[cfg(unix)]
fn group_and_mode(path: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| (metadata.gid(), metadata.mode()))
}

#[cfg(not(unix))]
fn group_and_mode(_: &Path) -> Option<(u32, u32)> {
    None
}
