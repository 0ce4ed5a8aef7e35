//! `vmimg generate`: man pages and shell completions, made from the same text as the help.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use clap_complete::Shell;

use super::clap_command;
use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg generate`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write one man page for each command
    #[command(after_help = "\
Examples:
  vmimg generate man /usr/local/share/man/man1
  vmimg generate man man && man -l man/vmimg-disk-inject.1")]
    Man {
        /// The folder they go to; it is made when it is missing
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  vmimg generate completions bash > /etc/bash_completion.d/vmimg
  vmimg generate completions fish > ~/.config/fish/completions/vmimg.fish
  source <(vmimg generate completions zsh)")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
}

/// Runs `vmimg generate`.
///
/// # Errors
///
/// When the pages cannot be written.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.what {
        What::Man { folder } => write_man_pages(&context.absolute(&folder)),
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut clap_command(), "vmimg", &mut script);
            context.write_out(&script)
        }
    }
}

fn write_man_pages(folder: &Path) -> Result<(), CommandError> {
    let cannot = |error| CommandError::io(format!("cannot write man pages to `{}`", folder.display()), error);
    fs::create_dir_all(folder).map_err(cannot)?;
    let mut cli = clap_command();
    cli.build();
    write_page(folder, &cli, "vmimg").map_err(cannot)
}

/// Writes the page of `command` and those of the commands below it; `name` is as in `vmimg-disk-inject`.
fn write_page(folder: &Path, command: &clap::Command, name: &str) -> io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).section("1").render(&mut page)?;
    File::create(folder.join(format!("{name}.1")))?.write_all(&page)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_page(folder, below, &format!("{name}-{}", below.get_name()))?;
    }
    Ok(())
}
