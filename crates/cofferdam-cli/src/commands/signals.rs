//! `kill`, `stop` and `rm`: the ways to end and to forget containers.

use cofferdam::engine::{EngineError, RemoveOutcome};
use cofferdam::exit::AskedBy;
use cofferdam::state::StateError;

use super::each;
use crate::cli::{KillArgs, RmArgs, StopArgs};
use crate::context::Context;
use crate::output::{CliError, note, warn};

pub(super) async fn kill(context: &Context, args: KillArgs) -> Result<u8, CliError> {
    each(&args.containers.containers, async |name| {
        Ok(context.engine.kill(name, args.signal, args.all).await?)
    })
    .await
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> Result<u8, CliError> {
    each(&args.containers.containers, async |name| {
        context.engine.stop(name, args.signal, args.time, AskedBy::Stop).await?;
        Ok(())
    })
    .await
}

pub(super) async fn remove(context: &Context, args: RmArgs) -> Result<u8, CliError> {
    each(&args.containers.containers, async |name| {
        let removed = if args.volumes {
            context.engine.remove_with_volumes(name, args.force).await
        } else {
            context.engine.remove(name, args.force).await
        };
        match removed {
            Ok(RemoveOutcome::Removed { left, .. }) => {
                for failure in left {
                    warn(format_args!("{name} is forgotten, and something of it is left: {failure}"));
                }
            }
            Ok(RemoveOutcome::Discarded(failure)) => {
                warn(format_args!("{failure}; it was removed all the same"))
            }
            Err(EngineError::State(error @ StateError::NoSuchContainer(_))) if args.force => note(error),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    })
    .await
}
