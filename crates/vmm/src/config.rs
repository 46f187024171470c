//! Setting that chooses the VMM of machines, and the types of what is found by it.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::Driver;

/// VmmChoice is the value of the setting that chooses a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VmmChoice {
    /// Best driver whose program is installed and works here.
    #[default]
    Auto,
    Qemu,
}

impl FromStr for VmmChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "qemu" => Ok(Self::Qemu),
            _ => Err("expected auto or qemu".to_owned()),
        }
    }
}

/// VmmConfig is what must be known to find a driver.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    pub choice: VmmChoice,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Directory that tells the VMMs started here from those of another owner on this machine; see [`crate::find_vmms`].
    pub owner: PathBuf,
}

/// Found is a driver that works here.
pub struct Found {
    pub driver: Arc<dyn Driver>,
    /// Sentence for the log on how guests are executed.
    pub detail: String,
}

/// CheckVerdict is how a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckVerdict {
    Ok,
    Warning,
    Failure,
}

/// Check is one finding about the chosen VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub verdict: CheckVerdict,
    pub detail: String,
    /// Advice for the operator; empty when nothing is to be done.
    pub remedy: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_driver_is_refused_with_the_known_ones() {
        assert_eq!("auto".parse(), Ok(VmmChoice::Auto));
        assert_eq!("qemu".parse(), Ok(VmmChoice::Qemu));
        assert_eq!("bochs".parse::<VmmChoice>().unwrap_err(), "expected auto or qemu");
    }
}
