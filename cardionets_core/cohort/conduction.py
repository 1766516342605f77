"""When each point of the heart is activated: shortest paths over four surfaces.

The surfaces are the left endocardium (0), the left epicardium (1; under the right ventricle it is
the septum's right side), the right endocardium (2) and the right epicardium (3), each a lattice of
`ROWS` x `COLUMNS` nodes from apex to valve plane. Fast endocardial speeds stand for the Purkinje
network; a few root nodes start it (eikonal model, e.g. Wallman et al., IEEE TBME 59:1739, 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from cardionets_core.cohort.geometry import PHI_COLUMNS, THETA_ROWS, Floats, Geometry
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.nuisance import Nuisance

ROWS, COLUMNS, SURFACES = 15, 48, 4
PHI_NODES: Floats = np.arange(COLUMNS) * 2 * np.pi / COLUMNS
_PER_SURFACE = ROWS * COLUMNS
_NODES = SURFACES * _PER_SURFACE

SPEED_LEFT, SPEED_RIGHT, SPEED_EPI, SPEED_WALL = 0.8, 0.876, 0.5259, 0.3933
SPEED_LEFT_BLOCKED, SPEED_RIGHT_BLOCKED = 0.65, 0.8792
"""mm/ms, fitted to normative lead amplitudes and QRS duration."""


@dataclass(frozen=True)
class Root:
    """Where and when the Purkinje network reaches the muscle."""

    surface: int
    height: float
    phi: float
    time_ms: float


ROOTS = (
    Root(0, 0.285, -0.5978, 0.0),
    Root(0, 0.6452, 1.8, 5.21),
    Root(0, 0.4799, 4.616, 12.6),
    Root(1, 0.6906, 0.05, 2.0),
    Root(2, 0.5984, 0.3374, 2.0),
    Root(2, 0.60, -0.6, 23.84),
)
"""Three left roots (septal, anterior, inferior), then three right ones."""
_LEFT_ROOTS, _ANTERIOR_ROOT = 3, 1


@dataclass(frozen=True)
class Lattice:
    """The nodes of the four surfaces in the heart frame.

    Attributes:
        points: positions in mm [4, rows, columns, 3].
        areas: outward normals times patch area [4, rows, columns, 3], mm2.
        in_rv: where the right ventricle lies on the left epicardium [rows, columns].
        scar: transmurality at the nodes [rows, columns].
        thick_mm: wall beyond 11.5 mm at the nodes [rows, columns].
    """

    points: Floats
    areas: Floats
    in_rv: NDArray[np.bool_]
    scar: Floats
    thick_mm: Floats


@dataclass(frozen=True)
class Activation:
    """Activation times in ms [4, rows, columns] as they are, and as they would be without block."""

    times: Floats
    unblocked: Floats
    lattice: Lattice

    @property
    def used(self) -> NDArray[np.bool_]:
        """Nodes that exist: the right surfaces only where there is a right ventricle."""
        everywhere = np.ones_like(self.lattice.in_rv)
        return np.stack([everywhere, everywhere, self.lattice.in_rv, self.lattice.in_rv])

    @property
    def qrs_ms(self) -> float:
        """First to (nearly) last activation."""
        times = np.sort(self.times[self.used])
        return float(times[-3] - times[0])


def sample_surface(values: Floats, theta: Floats, phi: Floats) -> Floats:
    """Bilinear values [theta, phi] at directions of any shape; theta clamped, phi periodic."""
    x = np.clip(theta * (THETA_ROWS / np.pi) - 0.5, 0, THETA_ROWS - 1.001)
    y = (phi % (2 * np.pi)) * (PHI_COLUMNS / (2 * np.pi))
    i, j = x.astype(np.intp), y.astype(np.intp) % PHI_COLUMNS
    u, v, right = x - i, y - np.floor(y), (j + 1) % PHI_COLUMNS
    lower = values[i, j] * (1 - v) + values[i, right] * v
    upper = values[i + 1, j] * (1 - v) + values[i + 1, right] * v
    return np.asarray(lower * (1 - u) + upper * u)


def build_lattice(geometry: Geometry) -> Lattice:
    """Lay the four lattices over the surfaces at end-diastole."""
    surfaces = (geometry.endo, geometry.epi, geometry.rv, geometry.rv_outer)
    heights = [_node_heights(surface, geometry.valve_mm) for surface in surfaces]
    laid = [
        _lay(surface, theta, geometry.valve_mm)
        for surface, theta in zip(surfaces, heights, strict=True)
    ]
    points = np.stack([p for p, _ in laid])
    phi = np.broadcast_to(PHI_NODES, (ROWS, COLUMNS))
    return Lattice(
        points=points,
        areas=np.stack([a for _, a in laid]),
        in_rv=np.linalg.norm(points[2] - points[1], axis=-1) > 4,
        scar=sample_surface(geometry.scar, heights[0], phi),
        thick_mm=sample_surface(np.maximum(geometry.wall_mm - 11.5, 0), heights[0], phi),
    )


def _node_heights(radius: Floats, valve: float) -> Floats:
    """Return theta of the nodes [rows, columns]: evenly from apex to valve plane."""
    fine = np.linspace(1.5, 2.6, 96)[:, None]
    r = sample_surface(radius, np.repeat(fine, COLUMNS, 1), np.repeat(PHI_NODES[None], 96, 0))
    cut = np.argmax(r * np.cos(fine) < -valve, axis=0)
    return np.asarray(0.09 + np.linspace(0, 1, ROWS)[:, None] * (fine[cut, 0] - 0.09))


def _lay(radius: Floats, theta: Floats, valve: float) -> tuple[Floats, Floats]:
    """Points and outward area vectors [rows, columns, 3] of one surface."""
    r = sample_surface(radius, theta, np.broadcast_to(PHI_NODES, theta.shape))
    across = r * np.sin(theta)
    points = np.stack(
        [valve + r * np.cos(theta), across * np.cos(PHI_NODES), across * np.sin(PHI_NODES)], axis=-1
    )
    along = np.gradient(points, axis=0)
    around = (np.roll(points, -1, 1) - np.roll(points, 1, 1)) / 2
    areas = np.cross(along, around)
    areas[0] *= 1.2  # the apical cap that no row covers
    areas[-1] *= 0.5  # half a patch at the rim
    outward = np.sign((areas * (points - np.array([valve, 0, 0]))).sum(-1))
    return points, areas * outward[..., None]


def activate(heart: Heart, nuisance: Nuisance, geometry: Geometry) -> Activation:
    """Activation times with and without the patient's bundle branch block."""
    lattice = build_lattice(geometry)
    lengths = _edge_lengths(lattice.points)
    unblocked = _shortest(heart, nuisance, lattice, lengths, lbbb=False, rbbb=False)
    times = unblocked
    if heart.lbbb or heart.rbbb:
        times = _shortest(heart, nuisance, lattice, lengths, lbbb=heart.lbbb, rbbb=heart.rbbb)
    return Activation(times, unblocked, lattice)


@dataclass(frozen=True)
class _Edges:
    """All edges that any heart can have, in groups, and their place in one sparse matrix."""

    start: NDArray[np.intp]
    end: NDArray[np.intp]
    groups: dict[str, slice]
    order: NDArray[np.intp]
    columns: NDArray[np.intp]
    row_ends: NDArray[np.intp]


def _lattice_edges() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Neighbours up to a knight's move, so that paths are nearly free to choose their angle."""
    starts, ends = [], []
    for down, around in ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (1, -2), (2, 1), (2, -1)):
        i, j = np.meshgrid(np.arange(ROWS - down), np.arange(COLUMNS), indexing="ij")
        starts.append((i * COLUMNS + j).ravel())
        ends.append(((i + down) * COLUMNS + (j + around) % COLUMNS).ravel())
    return np.concatenate(starts), np.concatenate(ends)


_FROM, _TO = _lattice_edges()
_SELF = np.arange(_PER_SURFACE)


def _all_edges() -> _Edges:
    pieces = {
        "lv_endo": (_FROM, _TO, 0, 0),
        "lv_epi": (_FROM, _TO, 1, 1),
        "rv_endo": (_FROM, _TO, 2, 2),
        "rv_epi": (_FROM, _TO, 3, 3),
        "lv_wall": (np.r_[_SELF, _FROM, _TO], np.r_[_SELF, _TO, _FROM], 0, 1),
        "rv_wall": (np.r_[_SELF, _FROM, _TO], np.r_[_SELF, _TO, _FROM], 2, 3),
        "rim_endo": (_SELF, _SELF, 2, 1),
        "rim_epi": (_SELF, _SELF, 3, 1),
    }
    starts, ends, groups, at = [], [], {}, 0
    for name, (a, b, surface_a, surface_b) in pieces.items():
        starts.append(a + surface_a * _PER_SURFACE)
        ends.append(b + surface_b * _PER_SURFACE)
        groups[name] = slice(at, at + len(a))
        at += len(a)
    start, end = np.concatenate(starts), np.concatenate(ends)
    rows, columns = np.r_[start, end], np.r_[end, start]
    order = np.lexsort((columns, rows))
    row_ends = np.searchsorted(rows[order], np.arange(1, _NODES + 1), side="left")
    return _Edges(start, end, groups, order, columns[order], row_ends)


_EDGES = _all_edges()


def _edge_lengths(points: Floats) -> Floats:
    square = np.zeros(len(_EDGES.start))
    for coordinate in points.reshape(-1, 3).T.copy():
        step = coordinate.take(_EDGES.start) - coordinate.take(_EDGES.end)
        square += step * step
    return np.sqrt(square)


def _edge_times(speeds: dict[str, float], lattice: Lattice, lengths: Floats) -> Floats:
    """Conduction time of every edge in ms; infinite where this heart has no such edge."""
    inside = lattice.in_rv.ravel()
    both = inside[_FROM] & inside[_TO]
    slowness = 1 + 0.9 * lattice.scar.ravel()  # scar conducts slowly
    rim = inside & ~_surrounded(lattice.in_rv).ravel()
    wall = np.r_[_SELF, _FROM, _TO]
    slow = {
        "lv_endo": 0.5 * (slowness[_FROM] + slowness[_TO]) / speeds["left"],
        "lv_epi": 1 / np.where(both, speeds["right"], speeds["epi"]),
        "rv_endo": np.where(both, 1 / speeds["right"], np.inf),
        "rv_epi": np.where(both, 1 / speeds["epi"], np.inf),
        "lv_wall": slowness[wall] / speeds["wall"],
        "rv_wall": np.where(np.r_[inside, both, both], 1 / speeds["wall"], np.inf),
        "rim_endo": np.where(rim, 1 / speeds["right"], np.inf),
        "rim_epi": np.where(rim, 1 / speeds["epi"], np.inf),
    }
    times = np.empty(len(lengths))
    for name, place in _EDGES.groups.items():
        # a zero length is a real edge: keep it from vanishing, 0 * inf from being NaN
        times[place] = np.maximum(lengths[place], 1e-6) * slow[name]
    return times


def _surrounded(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.roll(inside, 1, 1) & np.roll(inside, -1, 1) & np.roll(inside, 1, 0)


def _shortest(
    heart: Heart, nuisance: Nuisance, lattice: Lattice, lengths: Floats, *, lbbb: bool, rbbb: bool
) -> Floats:
    """Earliest arrival from any root, by Dijkstra, in ms [4, rows, columns]."""
    own = nuisance.speed
    speeds = {
        "left": SPEED_LEFT_BLOCKED * own[3] if lbbb else SPEED_LEFT * own[0],
        "right": SPEED_RIGHT_BLOCKED * own[3] if rbbb else SPEED_RIGHT * own[0],
        "epi": SPEED_EPI * own[1],
        "wall": SPEED_WALL * own[2],
    }
    edges = _edge_times(speeds, lattice, lengths)
    nodes, delays = _open_roots(heart, nuisance, lbbb=lbbb, rbbb=rbbb)
    values = np.r_[np.r_[edges, edges][_EDGES.order], delays]
    columns = np.r_[_EDGES.columns, nodes]
    ends = np.r_[0, _EDGES.row_ends, len(values)]
    graph = csr_array((values, columns, ends), shape=(_NODES + 1, _NODES + 1))
    times = dijkstra(graph, directed=True, indices=_NODES)
    return np.asarray(times[:_NODES].reshape(SURFACES, ROWS, COLUMNS))


def _open_roots(
    heart: Heart, nuisance: Nuisance, *, lbbb: bool, rbbb: bool
) -> tuple[NDArray[np.intp], Floats]:
    """Nodes and start times of the roots that conduct; those of a blocked bundle are silent."""
    nodes, delays = [], []
    for k, root in enumerate(ROOTS):
        left = k < _LEFT_ROOTS
        if (left and lbbb) or (not left and rbbb) or (k == _ANTERIOR_ROOT and heart.lafb):
            continue
        height = root.height + 0.35 * nuisance.root_shift[k, 0]
        row = int(np.clip(round(height * (ROWS - 1)), 1, ROWS - 2))
        turn = (root.phi + nuisance.root_shift[k, 1]) % (2 * np.pi) / (2 * np.pi)
        nodes.append(root.surface * _PER_SURFACE + row * COLUMNS + round(turn * COLUMNS) % COLUMNS)
        delays.append(root.time_ms + nuisance.root_delay_ms[k] + 0.01)
    return np.array(nodes), np.array(delays)
