//! Finding the driver the setting chooses. The only file besides the drivers that knows which there are.

use crate::{Check, Found, VmmChoice, VmmConfig, VmmError, qemu};

/// Finds the chosen driver: asks its program for its version and tries out what the processor can do.
///
/// # Errors
/// The program is not there or prints no version.
pub async fn find(config: &VmmConfig) -> Result<Found, VmmError> {
    match config.choice {
        // There is one to choose from.
        VmmChoice::Auto | VmmChoice::Qemu => qemu::find(config).await,
    }
}

/// Checks of the chosen VMM: its program, and whether guests are executed by the processor. Changes nothing that stays.
pub async fn inspect(config: &VmmConfig) -> Vec<Check> {
    match config.choice {
        VmmChoice::Auto | VmmChoice::Qemu => qemu::inspect(config).await,
    }
}
