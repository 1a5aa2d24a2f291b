//! Plugins of networks, run as all foreign programs are.

use std::io;

use async_trait::async_trait;
use cofferdam_network::{ProgramCall, ProgramEnd, ProgramStatus, Programs};

use crate::exit::ProcessEnd;
use crate::process::{Invocation, InvokeError, Streams, run};

/// Runs them with this process's reaper.
#[derive(Debug)]
pub(super) struct Reaped;

#[async_trait]
impl Programs for Reaped {
    async fn run(&self, call: ProgramCall) -> io::Result<ProgramEnd> {
        let ProgramCall { program, args, env, stdin, limit, output_limit_bytes } = call;
        let invocation = Invocation {
            program: &program,
            args,
            streams: Streams::Fed { stdin, environment: env, limit: output_limit_bytes },
            limit,
        };
        match run(invocation).await {
            Ok(completed) => {
                let status = match completed.end {
                    ProcessEnd::Exited(code) => ProgramStatus::Exited(code.into()),
                    ProcessEnd::Signaled { signal, .. } => ProgramStatus::Signaled(signal.number()),
                };
                Ok(ProgramEnd { status, stdout: completed.stdout, stderr: completed.stderr })
            }
            Err(InvokeError::Spawn { source, .. }) => Err(source),
            Err(InvokeError::TimedOut { .. }) => {
                Ok(ProgramEnd { status: ProgramStatus::TimedOut, stdout: vec![], stderr: vec![] })
            }
        }
    }
}
