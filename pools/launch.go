package pools

import (
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Launchers' variables. A child of a rank that has them and starts MPI ends in MPI_Init: it is no member of the run. The lists are those of
// _libmpi.py.
var launcherPrefixes = []string{"OMPI_", "PMIX_", "PMI_", "PMI2_", "ORTE_", "PRTE_", "HYD", "MPI_LOCAL", "SLURM_", "MV2_COMM_WORLD_", "PALS_"}

// Of those, what the user or the site said about the machine and the job.
var keptVariables = regexp.MustCompile(`^(?:(OMPI|PRTE)_ALLOW_RUN_AS_ROOT(_CONFIRM)?` +
	`|OMPI_MCA_(btl|pml|mtl|osc|coll|io|opal|hwloc|rmaps)(_\w+)?` +
	`|OMPI_MCA_mpi_(yield_when_idle|warn_on_fork|leave_pinned)` +
	`|PRTE_MCA_(rmaps|hwloc)_\w+` +
	`|SLURM_(ARRAY_\w+|JOB_ID|JOB_NAME|JOB_PARTITION|JOB_ACCOUNT|SUBMIT_DIR|SUBMIT_HOST|RESTART_COUNT|TMPDIR|CPUS_PER_TASK|CPUS_ON_NODE|GPUS\w*))$`)

// isLauncherVariable says whether a variable tells about this process's place in an MPI run.
func isLauncherVariable(name string) bool {
	for _, p := range launcherPrefixes {
		if strings.HasPrefix(name, p) {
			return !keptVariables.MatchString(name)
		}
	}
	return false
}

// scrubbed is an environment for a child that is no MPI rank.
func scrubbed(environ []string) []string {
	var kept []string
	for _, e := range environ {
		if name, _, _ := strings.Cut(e, "="); !isLauncherVariable(name) {
			kept = append(kept, e)
		}
	}
	return kept
}

// launchSigns are the variables by which launchers tell the number of ranks; the second must be there as well where it is named.
var launchSigns = [][2]string{
	{"OMPI_COMM_WORLD_SIZE", ""}, {"PMI_SIZE", "PMI_RANK"}, {"MV2_COMM_WORLD_SIZE", ""}, {"PALS_LOCAL_SIZE", "PALS_RANKID"},
	{"SLURM_STEP_NUM_TASKS", ""},
}

// launchedRanks is the number of MPI ranks that this process was started as one of: 0 where no launcher started it. MPI itself is not
// touched, which on the login node of a cluster can end the process.
func launchedRanks() int {
	for _, s := range launchSigns {
		if n, err := strconv.Atoi(os.Getenv(s[0])); err == nil && n > 0 && (s[1] == "" || os.Getenv(s[1]) != "") {
			return n
		}
	}
	return 0
}
