//! The programs that JavaScript needs, and how somebody at a terminal hears of their installation.

use minnow_runtime::js::tools::{Found, Step, Tool, ToolError, Tools};

use crate::{
    output::{BOLD, DIM},
    progress::Progress,
    report::{self, Failure},
};

/// The program, installed if need be.
pub async fn provide(tool: Tool) -> anyhow::Result<Found> {
    // Shown while there is something to wait for; nothing is where it is found.
    let spinner = std::sync::Mutex::new(None);
    let tell = |step: &Step| {
        // Taken off the terminal before the line is printed.
        let mut spinner = spinner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *spinner = None;
        match step {
            Step::PassedOver { .. } => report::warn(step),
            Step::Waiting(_) | Step::Installing { .. } => {
                anstream::eprintln!("{BOLD}{step}{BOLD:#}");
                *spinner = Some(Spinner(Progress::Shown.waiting("this is needed once")));
            }
            Step::Installed { .. } => anstream::eprintln!("{DIM}{step}{DIM:#}"),
        }
    };
    let found = Tools::of_environment(None).provide(tool, &tell).await;
    drop(spinner);
    found.map_err(failure)
}

struct Spinner(indicatif::ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn failure(error: ToolError) -> anyhow::Error {
    let help = error.remedy();
    let what = match error {
        ToolError::NoNpm { tool, .. } | ToolError::NoFolder { tool } | ToolError::Machine { tool } => {
            format!("JavaScript needs {tool}")
        }
        _ => "cannot install what JavaScript needs".into(),
    };
    anyhow::Error::from(error).context(Failure::new(what).help(help))
}
