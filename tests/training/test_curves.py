from prune_realloc.training.curves import curves_figure, write_curves


def test_the_page_of_a_training(tmp_path):
    row = {"loss": 1.5, "lr": 1e-3, "val_loss": 0.5, "images_per_second": 10.0, "seconds": 30.0}
    rows = [row | {"epoch": float(epoch), "top1": top1} for epoch, top1 in ((1, 0.5), (2, 0.75), (3, 0.25))]
    folder = tmp_path / "<run>"
    folder.mkdir()
    write_curves(rows, {"data": "a < b"}, folder)
    page = (folder / "report.html").read_text()
    assert "<run>" not in page
    assert "a &lt; b" in page
    assert "Epochs: 3. Top-1 25.00% after the last, 75.00% after the best (2). Minutes: 1.5." in page
    assert "<td>2</td><td>1.5000</td><td>1.00e-03</td><td>0.5000</td><td>75.00%</td><td>10</td>" in page


def test_one_epoch_is_no_curve(tmp_path):
    row = {"loss": 1.5, "lr": 1e-3, "val_loss": 0.5, "images_per_second": 10.0, "seconds": 30.0, "top1": 0.5}
    rows = [row | {"epoch": float(epoch)} for epoch in (1, 2)]
    for count, drawn in ((1, False), (2, True)):
        figure = curves_figure({"run": rows[:count]})
        assert bool(figure.drawings) == drawn
        assert len(figure.table.rows) == count


def test_only_the_last_epochs_are_listed(tmp_path):
    row = {"loss": 1.5, "lr": 1e-3, "val_loss": 0.5, "images_per_second": 10.0, "seconds": 30.0, "top1": 0.5}
    write_curves([row | {"epoch": float(epoch)} for epoch in range(1, 31)], {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<td>1.00e-03</td>") == 20
