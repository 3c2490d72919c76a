//! Which U280 cards the PCI bus has, read from `/sys`; nothing is sent to a card, and XRT is not loaded.

use std::fmt;
use std::fs;
use std::path::Path;

use super::environment::Environment;

/// AMD's (Xilinx's) PCI vendor number.
const VENDOR: &str = "0x10ee";
/// The function of a U280 that programs use; with the shell that is on the card when it is sold, and without one.
const USER_FUNCTION: &str = "0x500d";
const FACTORY_FUNCTION: &str = "0xd00c";
/// XRT's kernel driver of that function.
const DRIVER: &str = "xocl";

/// What there is to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// XRT's version and library, or what is missing to load it.
    pub xrt: Result<String, String>,
    /// Cards, by PCI address.
    pub cards: Vec<FoundCard>,
}

/// A U280.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCard {
    /// PCI address.
    pub address: String,
    /// What is missing to use it, if anything.
    pub problem: Option<String>,
}

/// Looks at this machine.
pub fn probe() -> Probe {
    Probe { xrt: library(), cards: cards_in(Path::new("/sys/bus/pci/devices")) }
}

fn library() -> Result<String, String> {
    let environment = Environment::read().map_err(|error| error.message)?;
    let version = environment.version().unwrap_or_else(|| "of unknown version".to_owned());
    let emulated = if environment.device_process.is_some() { ", for software emulation" } else { "" };
    Ok(format!("{version} ({}{emulated})", environment.library.display()))
}

fn cards_in(devices: &Path) -> Vec<FoundCard> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let mut cards: Vec<_> = entries.filter_map(|entry| card(&entry.path())).collect();
    cards.sort_by(|a, b| a.address.cmp(&b.address));
    cards
}

fn card(device: &Path) -> Option<FoundCard> {
    let attribute = |name: &str| fs::read_to_string(device.join(name)).map(|text| text.trim().to_owned());
    if attribute("vendor").ok()? != VENDOR {
        return None;
    }
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let problem = match attribute("device").ok()?.as_str() {
        FACTORY_FUNCTION => {
            Some("it has no shell: install the U280's platform, and write it with xbmgmt".to_owned())
        }
        USER_FUNCTION if driver.as_deref() == Some(DRIVER) => None,
        USER_FUNCTION => {
            Some(format!("the driver {DRIVER} is not bound to it: install XRT's kernel drivers"))
        }
        _ => return None,
    };
    Some(FoundCard { address: device.file_name()?.to_string_lossy().into_owned(), problem })
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.xrt {
            Ok(version) => writeln!(f, "XRT {version}")?,
            Err(missing) => writeln!(f, "no XRT: {missing}")?,
        }
        if self.cards.is_empty() {
            writeln!(f, "no Alveo U280 on the PCI bus")?;
        }
        for FoundCard { address, problem } in &self.cards {
            match problem {
                None => writeln!(f, "Alveo U280 at {address}")?,
                Some(problem) => writeln!(f, "Alveo U280 at {address}: {problem}")?,
            }
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn cards_are_told_from_other_devices() {
        let folder = tempfile::tempdir().unwrap();
        for (address, vendor, device, driver) in [
            ("0000:86:00.1", "0x10ee", "0x500d", None),
            ("0000:3b:00.0", "0x10ee", "0x500c", Some("xclmgmt")),
            ("0000:3b:00.1", "0x10ee", "0x500d", Some("xocl")),
            ("0000:05:00.0", "0x10ee", "0xd00c", None),
            ("0000:01:00.1", "0x10de", "0x500d", Some("xocl")),
        ] {
            let path = folder.path().join(address);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(path.join("device"), format!("{device}\n")).unwrap();
            if let Some(driver) = driver {
                std::os::unix::fs::symlink(
                    Path::new("/sys/bus/pci/drivers").join(driver),
                    path.join("driver"),
                )
                .unwrap();
            }
        }
        let cards = cards_in(folder.path());
        let addresses: Vec<_> = cards.iter().map(|card| card.address.as_str()).collect();
        assert_eq!(addresses, ["0000:05:00.0", "0000:3b:00.1", "0000:86:00.1"]);
        assert!(cards[0].problem.as_ref().unwrap().contains("xbmgmt"));
        assert_eq!(cards[1].problem, None);
        let text = Probe { xrt: Err("gone".to_owned()), cards }.to_string();
        assert!(text.contains("no XRT: gone") && text.contains("at 0000:86:00.1: the driver xocl"), "{text}");
        assert_eq!(cards_in(&folder.path().join("nowhere")), []);
    }
}
